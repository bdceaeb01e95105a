// Classifies a photo or the images of a camera with MediaPipe's ImageClassifier; shows the top five scores.

import { ImageClassifier } from "./node_modules/@mediapipe/tasks-vision/vision_bundle.mjs";

const WASM = {
  wasmLoaderPath: "node_modules/@mediapipe/tasks-vision/wasm/vision_wasm_internal.js",
  wasmBinaryPath: "node_modules/@mediapipe/tasks-vision/wasm/vision_wasm_internal.wasm",
};
const MODEL = "model.tflite";
const TOP = 5;
const LARGEST = 4096; // pixels per side: limit of WebGL on mobile devices, which MediaPipe reads images with

const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);
let classifier = null;
let camera = null; // the MediaStream, while it runs
let work = Promise.resolve(); // runs one task after the other

function show(element, visible = true) {
  element.hidden = !visible;
}

function fail(message) {
  page.error.textContent = message;
  show(page.error);
  show(page.scores, false);
  show(page.latency, false);
}

async function loadModel(name, bytes) {
  // Keep the old model until the new one has loaded.
  let loaded;
  try {
    loaded = await ImageClassifier.createFromOptions(WASM, {
      baseOptions: { modelAssetBuffer: bytes, delegate: "CPU" },
      maxResults: -1, // all: their sum tells probabilities from logits
    });
    loaded.classify(new ImageData(16, 16)); // the first run sets up the kernels: not timed
  } catch (error) {
    fail(
      `MediaPipe cannot use ${name}: ${reason(error)}. It takes a .tflite with metadata and uint8 ` +
        "or float32 pixels, as effnet-tflite writes it.",
    );
    if (!classifier) page.model.textContent = "No model";
    return;
  }
  classifier?.close();
  classifier = loaded;
  show(page.error, false);
  page.model.textContent = `${name}, ${(bytes.length / 1e6).toFixed(1)} MB`;
}

async function loadFirstModel() {
  let response;
  try {
    response = await fetch(MODEL);
  } catch (error) {
    response = { ok: false, status: reason(error) };
  }
  if (!response.ok) {
    page.model.textContent = "No model";
    fail(`There is no ${MODEL} beside this page (${response.status}): put one there, or drop one.`);
    return;
  }
  await loadModel(MODEL, new Uint8Array(await response.arrayBuffer()));
}

async function classifyPhoto(file) {
  if (!classifier) {
    fail(`There is no model to ask: put ${MODEL} beside this page, or drop a .tflite first.`);
    return;
  }
  let image;
  try {
    image = await decode(file);
  } catch {
    fail(`${file.name} is not an image that this browser can read. Try a JPEG, PNG or WebP file.`);
    return;
  }
  URL.revokeObjectURL(page.photo.src);
  page.photo.src = URL.createObjectURL(file);
  show(page.photo);
  page.drop.classList.add("filled");
  page.invitation.textContent = "Another photo";

  classify(image, file.name);
}

function classify(image, name) {
  let categories;
  const start = performance.now();
  try {
    [{ categories }] = classifier.classify(image).classifications;
  } catch (error) {
    fail(`The model failed on ${name}: ${reason(error)}`);
    return;
  } finally {
    image.close();
  }
  const latency = performance.now() - start;
  show(page.error, false);
  const sum = categories.reduce((total, { score }) => total + score, 0);
  const shares = sum < 1.05 && categories.every(({ score }) => score >= 0); // up to 1.05: rounding of uint8
  page.scores.replaceChildren(...categories.slice(0, TOP).map((one) => row(one, shares)));
  show(page.scores);
  page.latency.textContent = `${latency.toFixed(1)} ms, ${camera ? "image" : "photo"} to scores`;
  show(page.latency);
}

async function startCamera() {
  if (!classifier) {
    fail(`There is no model to ask: put ${MODEL} beside this page, or drop a .tflite first.`);
    return;
  }
  try {
    const wanted = { video: { facingMode: "environment" }, audio: false };
    camera = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    const hint = "Allow it for this page; browsers offer it on https:// and localhost only.";
    fail(`The camera cannot be used: ${reason(error)}. ${hint}`);
    return;
  }
  page.video.srcObject = camera;
  await page.video.play();
  showCamera(true);
  nextFrame(camera);
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  page.video.srcObject = null;
  showCamera(false);
}

function showCamera(runs) {
  show(page.video, runs);
  show(page.drop, !runs);
  page.camera.textContent = runs ? "Stop the camera" : "Use the camera";
  page.camera.setAttribute("aria-pressed", runs);
  page.result.setAttribute("aria-live", runs ? "off" : "polite"); // not several times a second
}

function nextFrame(stream) {
  const later = page.video.requestVideoFrameCallback ?? requestAnimationFrame;
  later.call(page.video.requestVideoFrameCallback ? page.video : window, async () => {
    if (camera !== stream) return; // stopped
    const image = await decode(page.video);
    if (camera !== stream) return image.close();
    classify(image, "an image of the camera");
    nextFrame(stream);
  });
}

async function decode(source) {
  const image = await createImageBitmap(source); // a file: rotated as its EXIF says
  const scale = LARGEST / Math.max(image.width, image.height);
  if (scale >= 1) return image;
  const resized = await createImageBitmap(image, {
    resizeWidth: Math.max(1, Math.round(image.width * scale)),
    resizeHeight: Math.max(1, Math.round(image.height * scale)),
    resizeQuality: "high",
  });
  image.close();
  return resized;
}

function row({ categoryName, index, score }, share) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  const value = document.createElement("output");
  name.textContent = categoryName || `class ${index}`; // a model without labels
  value.textContent = share ? `${(100 * score).toFixed(1)} %` : score.toFixed(2);
  item.dataset.index = index;
  item.dataset.score = score;
  item.append(name, value);
  if (share) {
    const bar = document.createElement("div"); // <meter> differs between browsers
    bar.className = "bar";
    bar.style.setProperty("--share", score);
    item.append(bar);
  }
  return item;
}

function reason(error) {
  const [line] = String(error?.message ?? error).split("\n");
  return line.replace(/\.$/, "");
}

function start(task) {
  document.body.classList.add("busy");
  work = work
    .then(task)
    .catch((error) => fail(`Something went wrong: ${reason(error)}`))
    .finally(() => document.body.classList.remove("busy"));
}

function take(files) {
  const file = files[0];
  if (!file) return;
  if (!file.name.endsWith(".tflite")) stopCamera();
  start(async () => {
    if (!file.name.endsWith(".tflite")) return classifyPhoto(file);
    return loadModel(file.name, new Uint8Array(await file.arrayBuffer()));
  });
}

page.file.addEventListener("change", () => {
  take(page.file.files);
  page.file.value = ""; // so that choosing the same file again fires a change
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault(); // or the browser opens the file
    page.drop.classList.toggle("over", type === "dragover");
    if (type === "drop") take(event.dataTransfer.files);
  });
}
page.camera.addEventListener("click", () => (camera ? stopCamera() : start(startCamera)));
start(loadFirstModel);
