// What one does with the page: draw a digit, click on a cell of a confusion matrix, point at a curve.
const data = JSON.parse(document.getElementById("data").textContent);
for (const model of Object.values(data.models)) {
  model.values = new Float32Array(bytes(model.weights).buffer); // little-endian, as all browsers' machines are
}
const find = (selector) => document.querySelector(selector);

// The drawing. The canvas has its own pixels, whatever its size on the screen.
const canvas = find("#drawing"), pen = canvas.getContext("2d", { willReadFrequently: true });
const seen = find("#seen").getContext("2d", { willReadFrequently: true });
const PEN = 22; // pixels of 280: as thick as MNIST's strokes
let last = null, waiting = false;

function clear() {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  recognise();
}

function draw(x, y) {
  pen.fillStyle = pen.strokeStyle = "black";
  pen.beginPath();
  if (last) {
    pen.lineWidth = PEN;
    pen.lineCap = pen.lineJoin = "round";
    pen.moveTo(...last);
    pen.lineTo(x, y);
    pen.stroke();
  } else { // some browsers draw a line of no length, some do not
    pen.arc(x, y, PEN / 2, 0, 2 * Math.PI);
    pen.fill();
  }
  last = [x, y];
  if (!waiting) requestAnimationFrame(recognise);
  waiting = true;
}

// Ink is what is not white: one of the colours tells, since only black was drawn.
function drawing() {
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  return Float64Array.from({ length: pixels.length / 4 }, (_, place) => 255 - pixels[4 * place]);
}

function recognise() {
  waiting = false;
  const [image, problem] = normalise(drawing(), canvas.height, canvas.width);
  const shown = seen.createImageData(SIDE, SIDE);
  for (let place = 0; place < SIDE * SIDE; place++) {
    const level = image ? image[place] : 0;
    shown.data.set([level, level, level, 255], 4 * place);
  }
  seen.putImageData(shown, 0, 0);
  for (const [name, model] of Object.entries(data.models)) {
    const scores = image ? logits(model, image).map((logit) => 1 / (1 + Math.exp(-logit))) : model.classes.map(() => 0);
    const best = scores.indexOf(Math.max(...scores)), row = find(`tr[data-model="${name}"]`);
    row.querySelector(".answer").textContent = image ? model.classes[best] : "–";
    row.querySelectorAll("meter").forEach((bar, number) => {
      bar.value = scores[number];
      bar.title = `${model.classes[number]}: ${scores[number].toFixed(2)}`;
    });
    if (name === data.chosen) find("#answer").textContent = image ? `${name} reads ${model.classes[best]}.` : problem;
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = null;
  draw(...place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (canvas.hasPointerCapture(event.pointerId)) draw(...place(event));
});

// By keyboard: the arrows move a pen, the space bar puts it down and lifts it.
const MOVES = { ArrowLeft: [-7, 0], ArrowRight: [7, 0], ArrowUp: [0, -7], ArrowDown: [0, 7] };
const cursor = find("#cursor");
let at = [140, 60], down = false;
canvas.addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  if (move) at = at.map((value, axis) => Math.min(canvas.width, Math.max(0, value + move[axis])));
  else down = !down;
  if (!down || !move) last = null;
  if (down) draw(...at);
  cursor.hidden = false;
  cursor.className = down ? "down" : "";
  [cursor.style.left, cursor.style.top] = at.map((value) => `${(100 * value) / canvas.width}%`);
});
canvas.addEventListener("blur", () => { cursor.hidden = true; down = false; });
find("#clear").addEventListener("click", clear);
clear();

// The images behind a cell of a confusion matrix.
for (const matrix of document.querySelectorAll("[data-matrix]")) {
  matrix.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const model = matrix.dataset.matrix, classes = data.models[model].classes;
    const [actual, predicted] = button.dataset.cell.split(",").map(Number);
    const tiles = data.cells[model][button.dataset.cell] ?? [], count = Number(button.textContent.replace(/\D/g, ""));
    const right = actual === predicted, shown = matrix.querySelector(".shown");
    const what = right ? `${classes[actual]}, read right` : `${classes[actual]}, read as ${classes[predicted]}`;
    shown.querySelector("p").textContent = `${what}: ${tiles.length < count ? `${tiles.length} of ${count} images` : `${count} images`}`;
    shown.querySelector("div").replaceChildren(...tiles.map((number) => {
      const tile = document.createElement("span"), [image, digit] = data.tiles[number];
      tile.className = "tile";
      tile.style.backgroundPosition = `calc(var(--tile) * ${-(number % data.abreast)}) calc(var(--tile) * ${-Math.floor(number / data.abreast)})`;
      tile.title = `test image ${image}: ${data.labels[digit]}`;
      tile.setAttribute("role", "img");
      tile.setAttribute("aria-label", tile.title);
      return tile;
    }));
    matrix.querySelectorAll("[aria-pressed]").forEach((other) => other.removeAttribute("aria-pressed"));
    button.setAttribute("aria-pressed", "true");
  });
}

// The values of an epoch.
for (const chart of document.querySelectorAll(".chart")) {
  const values = chart.querySelector("output"), hint = values.textContent;
  for (const epoch of chart.querySelectorAll("[data-values]"))
    for (const kind of ["pointerenter", "focus"])
      epoch.addEventListener(kind, () => { values.textContent = epoch.dataset.values; });
  chart.addEventListener("pointerleave", () => { values.textContent = hint; });
}
