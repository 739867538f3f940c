// PNG of 16 bits and one channel, as scanners and microscopes write it. A browser keeps the
// upper eight bits; images/decode.py scales 65535 to 255, and so does this.

const GRAY_OF_16_BITS = [16, 0];

// The upright image; null for any other file, and for those that are better refused by
// the browser.
async function deepGray(blob, channels) {
  const head = new Uint8Array(await blob.slice(0, 33).arrayBuffer());
  if (head.length < 33 || letters(head, 12) !== "IHDR") return null;
  const [depth, colour, , , interlaced] = head.subarray(24, 29);
  if (`${[depth, colour]}` !== `${GRAY_OF_16_BITS}` || interlaced) return null;
  const view = new DataView(head.buffer);
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  if (width * height > MOST_PIXELS) return null;
  const { packed, turn } = chunksOf(new Uint8Array(await blob.arrayBuffer()));
  const stream = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  let lines;
  try {
    lines = new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    return null;
  }
  if (lines.length < (1 + 2 * width) * height) return null;
  const gray = unfiltered(lines, 2 * width, height);
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const value = gray[2 * i] * 256 + gray[2 * i + 1];
    data.fill(Math.floor((value + 128) / 257), i * channels, (i + 1) * channels);
  }
  return turned({ data, height, width, channels }, turn);
}

function chunksOf(bytes) {
  const view = new DataView(bytes.buffer);
  const packed = [];
  let turn = 1;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const block = bytes.subarray(at + 8, at + 8 + length);
    const name = letters(bytes, at + 4);
    if (name === "IDAT") packed.push(block);
    if (name === "eXIf") turn = orientation(block);
    at += 12 + length;
  }
  return { packed, turn };
}

// The five filters of PNG, undone: every byte was written as its difference from what the
// bytes to the left (a), above (b) and above left (c) let expect.
const EXPECTED = [
  () => 0,
  (a) => a,
  (a, b) => b,
  (a, b) => (a + b) >> 1,
  (a, b, c) => {
    const p = a + b - c;
    const [da, db, dc] = [a, b, c].map((x) => Math.abs(p - x));
    if (da <= db && da <= dc) return a;
    return db <= dc ? b : c;
  },
];

function unfiltered(lines, row, height) {
  const out = new Uint8Array(row * height);
  for (let y = 0; y < height; y++) {
    const from = y * (row + 1);
    const expected = EXPECTED[lines[from]] ?? EXPECTED[0];
    for (let x = 0; x < row; x++) {
      const at = y * row + x;
      const left = x > 1 ? out[at - 2] : 0;
      const above = y ? out[at - row] : 0;
      const corner = y && x > 1 ? out[at - row - 2] : 0;
      out[at] = lines[from + 1 + x] + expected(left, above, corner);
    }
  }
  return out;
}
