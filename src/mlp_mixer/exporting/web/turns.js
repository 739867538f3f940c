// How EXIF says that a camera was held. Browsers obey it in JPEG and PNG, and some of them
// not in WebP: there its block is hidden from them, and the pixels are turned here.

const ORIENTATION = 0x0112;

const letters = (bytes, at) => String.fromCharCode(...bytes.subarray(at, at + 4));

// The file without its EXIF block, and what that says: 1 to 8, 1 for upright.
async function unturned(blob) {
  const head = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  const isWebp = letters(head, 0) === "RIFF" && letters(head, 8) === "WEBP";
  if (!isWebp) return { blob, turn: 1 };
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (letters(bytes, at) === "EXIF") {
      const turn = orientation(bytes.subarray(at + 8, at + 8 + length));
      bytes.set([0x58, 0x58, 0x58, 0x58], at); // a name that decoders pass over
      return { blob: new Blob([bytes], { type: "image/webp" }), turn };
    }
    at += 8 + length + (length % 2);
  }
  return { blob, turn: 1 };
}

// Of a TIFF header with its first directory; a broken one says nothing.
function orientation(block) {
  try {
    const start = letters(block, 0) === "Exif" ? 6 : 0;
    const view = new DataView(block.buffer, block.byteOffset + start, block.length - start);
    const little = view.getUint16(0) === 0x4949;
    const first = view.getUint32(4, little);
    const count = view.getUint16(first, little);
    for (let i = 0; i < count; i++) {
      const entry = first + 2 + 12 * i;
      if (view.getUint16(entry, little) === ORIENTATION) {
        const turn = view.getUint16(entry + 8, little);
        return turn >= 1 && turn <= 8 ? turn : 1;
      }
    }
  } catch {
    // Shorter than it claims.
  }
  return 1;
}

// The upright image.
function turned(image, turn) {
  if (turn === 1) return image;
  const { data, height, width, channels } = image;
  const onItsSide = turn > 4;
  const [rows, columns] = onItsSide ? [width, height] : [height, width];
  const fromBelow = [3, 4, 7, 8].includes(turn);
  const fromRight = [2, 3, 6, 7].includes(turn);
  const out = new Uint8Array(data.length);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const upright = [fromBelow ? rows - 1 - y : y, fromRight ? columns - 1 - x : x];
      const [row, column] = onItsSide ? upright.reverse() : upright;
      const from = (row * width + column) * channels;
      const to = (y * columns + x) * channels;
      for (let k = 0; k < channels; k++) out[to + k] = data[from + k];
    }
  }
  return { data: out, height: rows, width: columns, channels };
}
