// From logits to an answer, as src/mlp_mixer/inference/predictor.py. The scores are those
// of src/mlp_mixer/weights/scores.py.

const SCORES = {
  softmax,
  "semantic softmax": softmax,
  sigmoid: (logits) => Float32Array.from(logits, (x) => 1 / (1 + Math.exp(-x))),
};

function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (x) => Math.exp(x - most));
  const total = powers.reduce((a, b) => a + b);
  return Float32Array.from(powers, (power) => power / total);
}

// `top`, the best candidates in order. `labels`, where a picture may have several: all
// that reach their thresholds, best first; else null.
function answerOf(logits, { labels, scores, thresholds }, most) {
  const score = SCORES[scores](logits);
  const order = Array.from(logits.keys());
  // By logits, not by scores: a sigmoid rounds all large logits to 1.
  order.sort((a, b) => logits[b] - logits[a]);
  const candidate = (number) => ({ number, name: labels[number], score: score[number] });
  const reached = (number) => score[number] >= thresholds[number];
  return {
    top: order.slice(0, most).map(candidate),
    labels: thresholds ? order.filter(reached).map(candidate) : null,
  };
}
