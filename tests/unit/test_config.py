import dataclasses
import json
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from mlp_mixer.config import from_dict, override, to_dict
from mlp_mixer.errors import UserError
from mlp_mixer.models import VARIANTS, MixerConfig
from mlp_mixer.training.config import TrainConfig

start = TrainConfig()


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever the annotation allows, within what every field of the two configurations
    accepts.
    """
    if dataclasses.is_dataclass(hint):
        return st.fixed_dictionaries(fields_of(hint)).map(
            lambda fields: built(hint, fields)
        )
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), min_size=1, max_size=3).map(tuple)
    if origin is tuple:
        return (
            st.tuples(*map(values_of, arguments)).map(sorted).map(tuple)
        )  # ranges go from low to high
    scalars = {
        int: st.integers(2, 30),
        float: st.floats(0.125, 0.875),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return scalars[hint] if hint in scalars else {str: st.text()}[hint]


def built(kind: Any, fields: dict[str, Any]) -> Any:
    """The dataclass, unless its fields exclude each other."""
    try:
        return kind(**fields)
    except UserError:
        reject()


# Fields whose values lie elsewhere than those of all others.
ELSEWHERE = {"spike_factor": st.floats(1.5, 20)}


def fields_of(kind: type) -> dict[str, st.SearchStrategy[Any]]:
    hints = get_type_hints(kind).items()
    found = {name: values_of(hint) for name, hint in hints}
    return found | {name: ELSEWHERE[name] for name in found if name in ELSEWHERE}


def with_whole_patches(fields: dict[str, Any]) -> MixerConfig:
    height, width = (side * fields["patch_size"] for side in fields["image_size"])
    return MixerConfig(**fields | {"image_size": (height, width)})


mixer_configs = st.fixed_dictionaries(fields_of(MixerConfig)).map(with_whole_patches)


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every single value by its dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name
        found |= (
            leaves(value, f"{name}.")
            if dataclasses.is_dataclass(value)
            else {name: value}
        )
    return found


def words(kind: type, prefix: str = "") -> list[tuple[str, str]]:
    """Every field that takes one of some words, with each of them."""
    found = []
    for name, hint in get_type_hints(kind).items():
        for choice in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(choice):
                found += words(choice, f"{prefix}{name}.")
            elif get_origin(choice) is Literal:
                found += [(prefix + name, word) for word in get_args(choice)]
    return found


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(values_of(TrainConfig) | mixer_configs)
def test_round_trip_through_json(config):
    again = from_dict(type(config), json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert repr(again) == repr(config)  # 1 == 1.0 == True, but they do not print alike


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(values_of(TrainConfig))
def test_every_field_can_be_set_to_every_value(config):
    assignments = [
        f"{name}={json.dumps(value)}" for name, value in leaves(config).items()
    ]
    assert repr(override(start, assignments)) == repr(config)


@pytest.mark.parametrize(("name", "word"), words(TrainConfig))
def test_words_need_no_quotes(name, word):
    """Also the word none, where it is one of them."""
    # An older word for auto.
    expected = "auto" if (name, word) == ("train.precision", "fast") else word
    assert leaves(override(start, [f"{name}={word}"]))[name] == expected


def test_dictionary_is_plain_json():
    plain = to_dict(VARIANTS["mixer_b16"])
    assert plain["image_size"] == [224, 224]
    assert plain["patch_size"] == 16
    assert to_dict(start)["optim"]["betas"] == [0.9, 0.999]


def test_absent_fields_keep_their_defaults_and_groups_nest():
    config = from_dict(
        TrainConfig, {"optim": {"lr": 1, "betas": [0.5, 0]}, "recipe": "mine"}
    )
    assert config == dataclasses.replace(
        start,
        recipe="mine",
        optim=dataclasses.replace(start.optim, lr=1.0, betas=(0.5, 0.0)),
    )
    assert repr(config.optim.lr) == "1.0"
    assert from_dict(TrainConfig, {}) == start


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            TrainConfig,
            {"optim": {"lrr": 1}},
            "unknown field 'optim.lrr'; did you mean 'optim.lr'",
        ),
        (TrainConfig, {"optm": {}}, "unknown field 'optm'; did you mean 'optim'"),
        (TrainConfig, {"optim": 3}, "optim: expected .*, got 3"),
        (TrainConfig, [1], r"TrainConfig: expected a group of fields, got \[1\]"),
        (
            TrainConfig,
            {"train": {"epochs": -1}},
            "train.epochs must be above 0, got -1",
        ),
        (
            MixerConfig,
            {"patch_size": 4, "num_blocks": 1},
            "lacks the fields hidden_dim, tokens_mlp_dim, channels_",
        ),
        (
            MixerConfig,
            {"image_size": [8, 8, 8]},
            r"image_size: expected a list of an integer, an integer, got \[8, 8",
        ),
    ],
)
def test_refused_dictionaries(kind, values, message):
    with pytest.raises(UserError, match=message):
        from_dict(kind, values)


@pytest.mark.parametrize(
    ("assignment", "name", "value"),
    [
        ("train.epochs=3", "train.epochs", 3.0),
        (" train.epochs = 1e-1 ", "train.epochs", 0.1),
        ("train.batch_size=64", "train.batch_size", 64),
        ("train.device=3", "train.device", "3"),
        ("train.device=cuda:1", "train.device", "cuda:1"),
        ("data.source=folder:/a=b c", "data.source", "folder:/a=b c"),
        ('data.source="[1]"', "data.source", "[1]"),
        ("data.source=", "data.source", ""),
        ("data.source=007", "data.source", "007"),
        ("augment.flip=True", "augment.flip", True),
        ("augment.flip=false", "augment.flip", False),
        ("optim.clip_norm=none", "optim.clip_norm", None),
        ("optim.clip_norm=null", "optim.clip_norm", None),
        ("optim.clip_norm=2", "optim.clip_norm", 2.0),
        ("optim.betas=0.5,0", "optim.betas", (0.5, 0.0)),
        ("optim.betas=[0.5, 0.75]", "optim.betas", (0.5, 0.75)),
        ("preprocess.mean=0.25,0.5,0.75", "preprocess.mean", (0.25, 0.5, 0.75)),
        ("preprocess.mean=[0.25]", "preprocess.mean", (0.25,)),
        ("model.image_size=32", "model.image_size", 32),
        ("model.image_size=32,64", "model.image_size", (32, 64)),
        (" model.gelu = erf ", "model.gelu", "erf"),
        ("optim.name=sgd", "optim.name", "sgd"),
    ],
)
def test_override(assignment, name, value):
    changed = override(start, [assignment])
    assert repr(leaves(changed)) == repr(leaves(start) | {name: value})


def test_later_assignments_win_and_the_original_stays():
    assert (
        override(start, ["train.seed=1", "train.epochs=2", "train.seed=3"]).train.seed
        == 3
    )
    assert override(start, []) is start
    assert start == TrainConfig()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        # names
        ("train.epoch=3", "unknown field 'train.epoch'; did you mean 'train.epochs'"),
        ("trian.lr=3", "unknown field 'trian.lr'; did you mean 'optim.lr'"),
        ("lr=3", "unknown field 'lr'; known are optim.lr$"),
        ("tran=3", "unknown field 'tran'; did you mean 'train'"),
        (
            "train..epochs=3",
            "unknown field 'train..epochs'; did you mean 'train.epochs'",
        ),
        (
            "a.b.c.d=3",
            "unknown field 'a.b.c.d'; known are augment, augment.alternate, augment.area, ",
        ),
        (
            "train.epochs.x.y=3",
            "'train.epochs.x.y' does not exist: 'train.epochs' is a single value",
        ),
        (
            "optim=sgd",
            "'optim' is a group of fields, not one; set optim.name, optim.lr, ",
        ),
        (
            "train.epochs",
            "cannot read the setting 'train.epochs': expected FIELD=VALUE, such as train.epochs=2",
        ),
        ("=3", "cannot read the setting '=3'"),
        (" =3", "cannot read the setting ' =3'"),
        ("", "cannot read the setting ''"),
        # values
        ("train.epochs=abc", "train.epochs: expected a number, got 'abc'"),
        ("train.epochs=true", "train.epochs: expected a number, got True"),
        ("train.epochs=", "train.epochs: expected a number, got ''"),
        ("train.epochs=none", "train.epochs: expected a number, got None"),
        ("train.batch_size=2.5", "train.batch_size: expected an integer, got 2.5"),
        ("train.batch_size=true", "train.batch_size: expected an integer, got True"),
        ("augment.flip=1", "augment.flip: expected true or false, got 1"),
        ("optim.betas=1", "optim.betas: expected a list of a number, a number, got 1"),
        (
            "optim.betas=1,2,3",
            r"optim.betas: expected a list of a number, a number, got \[1, 2, 3\]",
        ),
        (
            "optim.betas=1,x",
            r"optim.betas: expected a list of a number, a number, got \[1, 'x'\]",
        ),
        (
            "preprocess.mean=a,b",
            r"preprocess.mean: expected a list of a number, \.\.\., got \['a', 'b'\]",
        ),
        (
            "model.image_size=1,2,3",
            "model.image_size: expected an integer or a list of .* or none, got",
        ),
        ("model.gelu=tan", "model.gelu: unknown value 'tan'; did you mean 'tanh'"),
        ("model.gelu=3", "model.gelu: expected 'tanh' or 'erf' or none, got 3"),
        ("optim.name=adma", "optim.name: unknown value 'adma'; did you mean 'adamw'"),
        ("train.epochs=0", "train.epochs must be above 0, got 0"),
        ("augment.area=0.5,0.25", "augment.area must be .* got 0.5, 0.25"),
    ],
)
def test_refused_assignments(assignment, message):
    with pytest.raises(UserError, match=message):
        override(start, [assignment])


@pytest.mark.parametrize("text", ["photos/a,b", "1e5", "1.10", "true", "none", "[1]"])
def test_text_is_taken_as_it_is_written(text):
    assert override(start, [f"data.source={text}"]).data.source == text


@pytest.mark.parametrize(
    "assignment", ["train.epochs=NaN", "train.epochs=Infinity", "optim.lr=-Infinity"]
)
def test_numbers_are_finite(assignment):
    with pytest.raises(UserError, match="expected a number"):
        override(start, [assignment])


def test_field_of_another_group_is_named():
    with pytest.raises(UserError, match=r"unknown field 'train.lr'; .*optim\.lr"):
        override(start, ["train.lr=3"])


@dataclasses.dataclass(frozen=True)
class _Paths:
    init: str | None = None
    sizes: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/a,b.pt", "/data/a,b.pt"),
        ("[a].pt", "[a].pt"),
        ("12", "12"),
        ("true", "true"),
        ("none", None),
        ('"none"', "none"),
        ('"a,b"', "a,b"),
    ],
)
def test_a_path_that_may_be_absent_is_taken_as_it_stands(
    text: str, value: str | None
) -> None:
    assert override(_Paths(), [f"init={text}"]).init == value
    assert override(_Paths(), ["sizes=1,2"]).sizes == (1, 2)
