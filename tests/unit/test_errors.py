import pickle

import pytest

from mlp_mixer.errors import UserError, near_misses, unknown


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [
        (
            "mixer_b61",
            ["mixer_s16", "mixer_b16"],
            ["mixer_b16", "mixer_s16"],
        ),  # best first
        ("TANH", ["erf", "tanh"], ["tanh"]),
        ("sgd", ["SGD"], ["SGD"]),  # as it is spelled among the choices
        ("adam", ["lamb"], []),  # half of the letters are too few
        ("", ["adamw"], []),
        (
            "aaaa",
            ["aaaa1", "aaaa2", "aaaa3", "aaaa4"],
            ["aaaa4", "aaaa3", "aaaa2"],
        ),  # three at most
        ("word", [], []),
    ],
)
def test_near_misses(word, choices, expected):
    assert near_misses(word, iter(choices)) == expected


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("tan", ["tanh", "erf"], "did you mean 'tanh'?"),
        (
            "mixer_x16",
            ["mixer_s16", "mixer_b16"],
            "did you mean 'mixer_s16' or 'mixer_b16'?",
        ),
        ("relu", ["tanh", "erf"], "known are erf, tanh"),
        ("x", [f"choice{i:02}" for i in range(12)], "choice10, choice11"),
        ("x", [f"choice{i:02}" for i in range(13)], "choice10, choice11, ..."),
        ("x", [], "none are known"),
    ],
)
def test_unknown_says_what_came_and_what_is_known(word, choices, hint):
    message = str(unknown("thing", word, iter(choices)))
    assert message.startswith(f"unknown thing {word!r}; ")
    assert message.endswith(hint)


def test_unknown_stays_one_line():
    assert "\n" not in str(unknown("model", "mixer\nb16", ["mixer_b16"]))


def test_user_error_is_a_value_error_that_travels_between_processes():
    error = pickle.loads(pickle.dumps(UserError("one sentence")))
    assert isinstance(error, ValueError)
    assert type(error) is UserError
    assert str(error) == "one sentence"
