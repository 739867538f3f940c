// The worker: it decodes, scales, computes and answers, one picture after the other, and
// asks nothing of any network. The files before this one are part of it.

const TOP = 5;

let about; // what index.html says of the network
let session; // promise of the network, ready to run

async function unpacked(text) {
  const letters = atob(text);
  const packed = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function prepare({ wasm, model }) {
  // More threads would need headers of a server.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpacked(wasm)).buffer;
  return ort.InferenceSession.create(await unpacked(model), {
    executionProviders: ["wasm"],
  });
}

async function answered(blob) {
  const network = await session;
  const begun = performance.now();
  const image = await decoded(blob, about.preprocess.channels);
  const seen = fit(image, about.preprocess);
  const shape = [1, seen.channels, seen.height, seen.width];
  const input = new ort.Tensor("float32", normalized(seen, about.preprocess), shape);
  const { logits } = await network.run({ image: input });
  const milliseconds = performance.now() - begun;
  const size = [image.width, image.height];
  return { ...answerOf(logits.data, about, TOP), seen, size, milliseconds };
}

// One after the other: a second call of a session that runs would fail.
let last = Promise.resolve();

onmessage = ({ data: { start, ask, blob } }) => {
  if (start) {
    about = start.about;
    session = prepare(start);
    session.then(
      () => postMessage({ ready: true }),
      (error) => postMessage({ failed: String(error?.message ?? error) }),
    );
    return;
  }
  last = last.then(async () => {
    try {
      postMessage({ ask, answer: await answered(blob) });
    } catch (error) {
      postMessage({ ask, refused: String(error?.message ?? error) });
    }
  });
};
