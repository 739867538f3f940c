// From a file to the pixels of an upright picture, as src/mlp_mixer/images/decode.py: the
// colour profile is ignored, transparency is laid on white, one channel is the luma.

const MOST_PIXELS = 64_000_000;
const STRIP = 2 ** 22; // pixels that are copied at a time

async function decoded(file, channels) {
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
  const exact = { read: null };
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    pen.clearRect(0, 0, width, rows);
    pen.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    let { data } = pen.getImageData(0, 0, width, count);
    if (!isOpaque(data)) {
      // A canvas has stored colours times their opacity, in 8 bits: colours are lost.
      exact.read ??= reader(bitmap);
      data = exact.read?.(top, count) ?? data;
    }
    put(data, out.subarray(top * width * channels), channels);
  }
  return out;
}

function isOpaque(data) {
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) return false;
  return true;
}

// Texels of a texture keep colours and opacity apart. Without WebGL, or for pictures that
// are too large for it, a value may differ by one from Pillow's.
function reader(bitmap) {
  const canvas = new OffscreenCanvas(1, 1);
  const gl = canvas.getContext("webgl2") ?? canvas.getContext("webgl");
  const most = gl?.getParameter(gl.MAX_TEXTURE_SIZE) ?? 0;
  if (Math.max(bitmap.width, bitmap.height) > most) return null;
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  const parameters = [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER];
  for (const name of parameters) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  const texture = gl.getParameter(gl.TEXTURE_BINDING_2D);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  return (top, count) => {
    const data = new Uint8Array(bitmap.width * count * 4);
    gl.readPixels(0, top, bitmap.width, count, gl.RGBA, gl.UNSIGNED_BYTE, data);
    return gl.getError() ? null : data;
  };
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
