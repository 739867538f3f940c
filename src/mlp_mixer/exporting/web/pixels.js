// From a file to the pixels of an upright picture, as src/mlp_mixer/images/decode.py: the
// colour profile is ignored, transparency is laid on white, one channel is the luma.

const MOST_PIXELS = 64_000_000;
const STRIP = 2 ** 22; // pixels that are copied at a time

async function decoded(file, channels) {
  const deep = await deepGray(file, channels);
  if (deep) return deep;
  const { blob, turn } = await unturned(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    const broken = "it is damaged, no picture, or in a format that the browser does not know";
    throw Error(`This file cannot be shown: ${broken}. Save it as JPEG or PNG.`);
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MOST_PIXELS) {
      throw Error(`This picture has ${width} × ${height} pixels, more than 64 million. Shrink it.`);
    }
    const data = pixelsOf(bitmap, channels);
    return turned({ data, height, width, channels }, turn);
  } finally {
    bitmap.close();
  }
}

// Bytes by rows. Strip by strip: phones limit the size of a canvas, and memory.
function pixelsOf(bitmap, channels) {
  const { width, height } = bitmap;
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const out = new Uint8Array(width * height * channels);
  const canvas = new OffscreenCanvas(width, rows);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    pen.clearRect(0, 0, width, rows);
    pen.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    // A canvas stores colours times their opacity, in 8 bits. What is lost by that does not
    // show on white: all 255 x 256 pairs of opacity and value were compared.
    const { data } = pen.getImageData(0, 0, width, count);
    put(data, out.subarray(top * width * channels), channels);
  }
  return out;
}

function put(rgba, out, channels) {
  for (let i = 0, o = 0; i < rgba.length; i += 4, o += channels) {
    const alpha = rgba[i + 3];
    const red = onWhite(rgba[i], alpha);
    const green = onWhite(rgba[i + 1], alpha);
    const blue = onWhite(rgba[i + 2], alpha);
    if (channels === 1) {
      out[o] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
    } else {
      out[o] = red;
      out[o + 1] = green;
      out[o + 2] = blue;
    }
  }
}

// Pillow's alpha_composite over white.
function onWhite(value, alpha) {
  if (alpha === 255) return value;
  const sum = value * alpha + 255 * (255 - alpha) + 128;
  return (sum + (sum >> 8)) >> 8;
}
