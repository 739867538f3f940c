// From the pixels of a picture to those that the network takes: src/mlp_mixer/images/
// preprocess.py and resample.py in JavaScript, sum by sum. The scaling of a canvas would
// give other answers.
//
// An image is { data, height, width, channels }, its data by rows, values 0 to 255.

const BITS = 22; // behind the point of Pillow's weights, which are whole numbers
const MOST_SCALED = 32; // scaled pixels for each of the crop, above which columns come first
const f32 = Math.fround;

// Python's rounding: half goes to the even number.
function halfToEven(x) {
  const low = Math.floor(x);
  const rest = x - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 ? low + 1 : low;
}

// Whole numbers only; a rounded quotient could fall one short.
const quotient = (a, b) => (a - (a % b)) / b;

// [height, width] before the crop.
function scaledSize(record, height, width) {
  const [wantedH, wantedW] = record.image_size;
  if (record.resize === "none") return [height, width];
  const leastH = Math.floor(wantedH / record.crop_pct);
  const leastW = Math.floor(wantedW / record.crop_pct);
  if (record.resize === "resize") return [leastH, leastW];
  if (record.resampler === "big_vision") {
    const factor = Math.max(f32(f32(leastH) / height), f32(f32(leastW) / width));
    return [height, width].map((side) => halfToEven(f32(side * factor)));
  }
  if (leastH * width >= leastW * height) return [leastH, quotient(leastH * width, height)];
  return [quotient(leastW * height, width), leastW];
}

// Where the crop of a side begins.
function offsetOf(record, scaled, kept) {
  if (record.resampler === "big_vision") return Math.floor((scaled - kept) / 2);
  return halfToEven((scaled - kept) / 2);
}

// Taps: what `count` pixels of the result take from the source along one axis. Pixel i
// takes weight[i * most + t] of pixel[i * most + t], divided by the divisor.
function emptyTaps(count, most, divisor = 1) {
  const pixel = new Int32Array(count * most);
  return { pixel, weight: new Float64Array(count * most), most, count, divisor };
}

const inside = (place, size) => Math.min(Math.max(place, 0), size - 1);

function areaTaps(size, scaled, first, count) {
  const scale = f32(f32(size) / f32(scaled));
  const edge = (i) => f32(f32(first + i) * scale);
  let most = 1;
  for (let i = 0; i < count; i++) {
    most = Math.max(most, Math.ceil(edge(i + 1)) - Math.floor(edge(i)));
  }
  const taps = emptyTaps(count, most, scale);
  for (let i = 0; i < count; i++) {
    const start = edge(i);
    const stop = edge(i + 1);
    for (let t = 0; t < most; t++) {
      const at = Math.floor(start) + t;
      const last = at < start ? scale : stop - at;
      const begun = at < start ? at + 1 - start : 1;
      const part = at + 1 > stop ? last : begun;
      taps.pixel[i * most + t] = inside(at, size);
      taps.weight[i * most + t] = f32(Math.max(part, 0));
    }
  }
  return taps;
}

function linearTaps(size, scaled, first, count) {
  const scale = f32(f32(size) / f32(scaled));
  const taps = emptyTaps(count, 2);
  for (let i = 0; i < count; i++) {
    const at = f32(f32(f32(f32(first + i) + 0.5) * scale) - 0.5);
    const part = f32(at - Math.floor(at));
    for (let t = 0; t < 2; t++) {
      taps.pixel[2 * i + t] = inside(Math.floor(at) + t, size);
      taps.weight[2 * i + t] = t ? part : 1 - part;
    }
  }
  return taps;
}

function cubicTaps(size, scaled, first, count) {
  const a = -0.75;
  const near = (d) => ((a + 2) * d - (a + 3)) * d * d + 1;
  const far = (d) => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  const taps = emptyTaps(count, 4);
  for (let i = 0; i < count; i++) {
    const at = (first + i + 0.5) * (size / scaled) - 0.5;
    const x = at - Math.floor(at);
    const weights = [far(1 + x), near(x), near(1 - x), far(2 - x)];
    weights.forEach((weight, t) => {
      taps.pixel[4 * i + t] = inside(Math.floor(at) + t - 1, size);
      taps.weight[4 * i + t] = weight;
    });
  }
  return taps;
}

// How far a filter of Pillow's reaches, in pixels of the result, and its weight there.
const box = (x) => (x > -0.5 && x <= 0.5 ? 1 : 0);
const triangle = (x) => Math.max(1 - Math.abs(x), 0);
const keys = (x) => {
  const d = Math.abs(x);
  const a = -0.5;
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
};
const ANTIALIASED = {
  nearest: [0.5, box],
  area: [0.5, box],
  bilinear: [1, triangle],
  bicubic: [2, keys],
};

function antialiasedTaps(kind, size, scaled, first, count) {
  const [reach, weigh] = ANTIALIASED[kind];
  const scale = size / scaled;
  const widened = kind === "nearest" ? 1 : Math.max(scale, 1);
  const spans = [];
  for (let i = 0; i < count; i++) {
    let centre = (first + i + 0.5) * scale;
    if (kind === "nearest") centre = Math.floor(centre) + 0.5;
    const low = Math.trunc(Math.max(centre - reach * widened + 0.5, 0));
    const high = Math.trunc(Math.min(centre + reach * widened + 0.5, size));
    spans.push({ centre, low, high });
  }
  const taps = emptyTaps(count, Math.max(...spans.map(({ low, high }) => high - low)));
  spans.forEach(({ centre, low, high }, i) => {
    const weights = [];
    let total = 0;
    for (let at = low; at < high; at++) {
      const weight = weigh((at - centre + 0.5) * (1 / widened));
      weights.push(weight);
      total += weight;
    }
    for (let t = 0; t < taps.most; t++) {
      const share = t < weights.length ? weights[t] / total : 0;
      taps.pixel[i * taps.most + t] = inside(low + t, size);
      taps.weight[i * taps.most + t] = Math.trunc(share * 2 ** BITS + (share < 0 ? -0.5 : 0.5));
    }
  });
  return taps;
}

// Pillow adds up the steps between the pixels that it takes, and so the rounding.
function nearestTaps(size, scaled, first, count) {
  const taps = emptyTaps(count, 1);
  const step = size / scaled;
  let at = step * 0.5;
  for (let i = 0; i < first + count; i++) {
    if (i >= first) {
      taps.pixel[i - first] = inside(Math.trunc(at), size);
      taps.weight[i - first] = 2 ** BITS;
    }
    at += step;
  }
  return taps;
}

// One axis of Pillow's scaling, rounded to bytes as there: the axis with this many steps
// of `step` values, in `outer` blocks of `block` values, each of `inner` values.
function weighted(data, taps, { outer, block, step, inner }) {
  const { pixel, weight, most, count } = taps;
  const out = new Uint8ClampedArray(outer * count * inner);
  const sums = new Float64Array(inner);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < count; i++) {
      sums.fill(2 ** (BITS - 1));
      for (let t = i * most; t < (i + 1) * most; t++) {
        const from = o * block + pixel[t] * step;
        const by = weight[t];
        if (by) for (let k = 0; k < inner; k++) sums[k] += data[from + k] * by;
      }
      const to = (o * count + i) * inner;
      for (let k = 0; k < inner; k++) out[to + k] = Math.floor(sums[k] / 2 ** BITS);
    }
  }
  return out;
}

function alongColumns({ data, height, width, channels }, taps) {
  const shape = { outer: height, block: width * channels, step: channels, inner: channels };
  return { data: weighted(data, taps, shape), height, width: taps.count, channels };
}

function alongRows({ data, width, channels }, taps) {
  const row = width * channels;
  const shape = { outer: 1, block: 0, step: row, inner: row };
  return { data: weighted(data, taps, shape), height: taps.count, width, channels };
}

// Pillow scales the rows first where the height loses more than twice as many pixels as
// the width; older versions than 13 only where an image is very tall.
function asPillow(image, record, scaled, top, left) {
  const [height, width] = record.image_size;
  const long = scaled[0] * scaled[1] > MOST_SCALED * height * width;
  const kind = record.interpolation;
  const step = kind === "nearest" && !long;
  const tapsOf = step ? nearestTaps : (...sides) => antialiasedTaps(kind, ...sides);
  const rows = tapsOf(image.height, scaled[0], top, height);
  const columns = tapsOf(image.width, scaled[1], left, width);
  const lost = image.height - scaled[0];
  if (!long && lost > 0 && lost > 2 * (image.width - scaled[1])) {
    return alongColumns(alongRows(image, rows), columns);
  }
  // Only the rows under the crop are looked at.
  const first = rows.pixel.reduce((a, b) => Math.min(a, b));
  const last = rows.pixel.reduce((a, b) => Math.max(a, b));
  const line = image.width * image.channels;
  const data = image.data.subarray(first * line, (last + 1) * line);
  const needed = { ...image, data, height: last + 1 - first };
  const moved = { ...rows, pixel: rows.pixel.map((place) => place - first) };
  return alongRows(alongColumns(needed, columns), moved);
}

// The sums of TensorFlow and OpenCV, both axes at once: in float32 for areas, else in
// double precision.
function asOthers(image, record, scaled, top, left) {
  const [height, width] = record.image_size;
  const kinds = { area: areaTaps, bilinear: linearTaps, bicubic: cubicTaps };
  const tapsOf = kinds[record.interpolation];
  const rows = tapsOf(image.height, scaled[0], top, height);
  const columns = tapsOf(image.width, scaled[1], left, width);
  const as = record.interpolation === "area" ? f32 : (x) => x;
  const reciprocal = f32(1 / f32(rows.divisor * columns.divisor));
  const { channels } = image;
  const out = new Float32Array(height * width * channels);
  let place = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < channels; channel++) {
        let total = 0;
        for (let r = y * rows.most; r < (y + 1) * rows.most; r++) {
          const start = rows.pixel[r] * image.width;
          let line = 0;
          for (let c = x * columns.most; c < (x + 1) * columns.most; c++) {
            const value = image.data[(start + columns.pixel[c]) * channels + channel];
            line = as(line + as(value * columns.weight[c]));
          }
          total = as(total + as(line * rows.weight[r]));
        }
        out[place++] = total * reciprocal;
      }
    }
  }
  const round = { opencv: halfToEven, big_vision: Math.trunc }[record.resampler];
  if (!round) return { data: out, height, width, channels };
  const data = Uint8Array.from(out, (value) => Math.min(Math.max(round(value), 0), 255));
  return { data, height, width, channels };
}

function cropped({ data, width, channels }, top, left, height, kept) {
  const out = new Uint8Array(height * kept * channels);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * width + left) * channels;
    out.set(data.subarray(from, from + kept * channels), y * kept * channels);
  }
  return { data: out, height, width: kept, channels };
}

// Scale and crop, as Preprocess.fit does.
function fit(image, record) {
  const [height, width] = record.image_size;
  if (record.resize === "none" && (image.height !== height || image.width !== width)) {
    throw Error(
      `The picture is ${image.width} × ${image.height} pixels, and this network takes only ` +
        `${width} × ${height}.`,
    );
  }
  const scaled = scaledSize(record, image.height, image.width);
  const top = offsetOf(record, scaled[0], height);
  const left = offsetOf(record, scaled[1], width);
  if (scaled[0] === image.height && scaled[1] === image.width) {
    return cropped(image, top, left, height, width);
  }
  const scale = record.resampler === "pillow" ? asPillow : asOthers;
  return scale(image, record, scaled, top, left);
}

// Planes (C, H, W) of (x / 255 - mean) / std, every step rounded to float32 as in torch.
function normalized({ data, height, width, channels }, { mean, std }) {
  const size = height * width;
  const out = new Float32Array(channels * size);
  for (let channel = 0; channel < channels; channel++) {
    const centre = f32(mean[channel]);
    const spread = f32(std[channel]);
    for (let i = 0; i < size; i++) {
      const unit = f32(data[i * channels + channel] / 255);
      out[channel * size + i] = f32(unit - centre) / spread;
    }
  }
  return out;
}
