"use strict";
// What the page does: run the networks, make a drawing an image as MNIST has them, and show what one points at.
const SIDE = 28, BOX = 20, CENTRE = 14; // as in data/photo.py, which has the same recipe
const FAINT = 20, SPECK = 0.02, ALIKE = 0.6, HEAVY = 0.2;

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Layers: from channels [c][h][w], as one array with its shape, to the next. `take` hands out weights in their order.
const LAYERS = {
  Conv2d(x, { stride, padding, filters, kernel }, take) {
    const [channels, height, width] = x.shape, size = kernel * kernel;
    const weight = take(filters * channels * size), bias = take(filters);
    const rows = Math.floor((height + 2 * padding - kernel) / stride) + 1;
    const columns = Math.floor((width + 2 * padding - kernel) / stride) + 1;
    const out = new Float64Array(filters * rows * columns);
    for (let filter = 0; filter < filters; filter++) {
      out.fill(bias[filter], filter * rows * columns, (filter + 1) * rows * columns);
      for (let place = 0; place < channels * size; place++) {
        const factor = weight[filter * channels * size + place], channel = Math.floor(place / size);
        const y = Math.floor((place % size) / kernel) - padding, k = (place % kernel) - padding;
        // The rows and columns whose pixel is within the image.
        const firstRow = Math.max(0, Math.ceil(-y / stride)), endRow = Math.min(rows, Math.floor((height - 1 - y) / stride) + 1);
        const first = Math.max(0, Math.ceil(-k / stride)), end = Math.min(columns, Math.floor((width - 1 - k) / stride) + 1);
        for (let row = firstRow; row < endRow; row++) {
          const from = (channel * height + row * stride + y) * width + k, to = (filter * rows + row) * columns;
          for (let column = first; column < end; column++) out[to + column] += factor * x.data[from + column * stride];
        }
      }
    }
    return { shape: [filters, rows, columns], data: out };
  },
  BatchNorm2d(x, { eps }, take) {
    const [channels, height, width] = x.shape;
    const [weight, bias, mean, variance] = [take(channels), take(channels), take(channels), take(channels)];
    const data = x.data.map((value, place) => {
      const channel = Math.floor(place / (height * width));
      return ((value - mean[channel]) / Math.sqrt(variance[channel] + eps)) * weight[channel] + bias[channel];
    });
    return { shape: x.shape, data };
  },
  MaxPool2d: (x, { size }) => pooled(x, size, Math.max, 1),
  AvgPool2d: (x, { size }) => pooled(x, size, (sum, value) => sum + value, size * size),
  ReLU: (x) => ({ shape: x.shape, data: x.data.map((value) => Math.max(0, value)) }),
  Flatten: (x) => ({ shape: [x.data.length], data: x.data }),
  Linear(x, { classes }, take) {
    const weight = take(classes * x.data.length), bias = take(classes);
    const data = bias.map((value, c) => x.data.reduce((sum, one, i) => sum + one * weight[c * x.data.length + i], value));
    return { shape: [classes], data };
  },
};

function pooled(x, size, combine, divisor) {
  const [channels, height, width] = x.shape, rows = Math.floor(height / size), columns = Math.floor(width / size);
  const data = new Float64Array(channels * rows * columns);
  for (let place = 0; place < data.length; place++) {
    const row = Math.floor(place / columns), corner = (Math.floor(row / rows) * height + (row % rows) * size) * width;
    const start = corner + (place % columns) * size;
    let value = x.data[start];
    for (let other = 1; other < size * size; other++)
      value = combine(value, x.data[start + Math.floor(other / size) * width + (other % size)]);
    data[place] = value / divisor;
  }
  return { shape: [channels, rows, columns], data };
}

// The logits of a model for an image of 784 grey levels, 0 (background) to 255.
function logits(model, image) {
  let place = 0;
  const take = (count) => Float64Array.from(model.values.subarray(place, (place += count)));
  const start = { shape: [1, SIDE, SIDE], data: Float64Array.from(image, (level) => level / 255) };
  return Array.from(model.layers.reduce((x, layer) => LAYERS[layer.type](x, layer, take), start).data);
}

// An image of 784 grey levels from ink [height][width], 0 to 255, on a clean background: data/photo.py says how.
// The second value says why there is none.
function normalise(grey, height, width) {
  const most = grey.reduce((one, other) => Math.max(one, other), 0);
  if (most < FAINT) return [null, "Nothing is drawn yet."];
  const ink = Float64Array.from(grey, (level) => level * (255 / most));
  const parts = components(ink, height, width);
  const largest = parts.reduce((one, other) => (other.amount > one.amount ? other : one));
  const kept = parts.filter((part) => part.amount >= SPECK * largest.amount);
  const apart = (one, other) => one.left >= other.right || other.left >= one.right || one.top >= other.bottom || other.top >= one.bottom;
  const tall = (part) => part.bottom - part.top;
  if (kept.some((part) => apart(part, largest) && tall(part) > ALIKE * tall(largest) && part.amount > HEAVY * largest.amount))
    return [null, "Several digits: draw one."];
  const top = Math.min(...kept.map((part) => part.top)), bottom = Math.max(...kept.map((part) => part.bottom));
  const left = Math.min(...kept.map((part) => part.left)), right = Math.max(...kept.map((part) => part.right));
  const shown = new Float64Array(height * width);
  for (const part of kept) for (const place of part.places) shown[place] = ink[place];
  const sizes = [bottom - top, right - left], longer = Math.max(...sizes);
  const [rows, columns] = sizes.map((size) => Math.max(1, evenly((size * BOX) / longer)));
  const down = areas(sizes[0], rows), across = areas(sizes[1], columns);
  const small = [];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (const [y, share] of down[row]) for (const [x, part] of across[column]) sum += share * part * shown[(top + y) * width + left + x];
      small.push(sum);
    }
  const total = small.reduce((sum, value) => sum + value);
  const corner = (size, coordinate) => {
    const middle = small.reduce((sum, value, place) => sum + value * coordinate(place), 0) / total;
    return Math.min(Math.max(CENTRE - Math.floor(middle + 0.5), 0), SIDE - size);
  };
  const y = corner(rows, (place) => Math.floor(place / columns)), x = corner(columns, (place) => place % columns);
  const image = new Uint8Array(SIDE * SIDE);
  small.forEach((value, place) => {
    image[(y + Math.floor(place / columns)) * SIDE + x + (place % columns)] = Math.floor(value + 0.5);
  });
  return [image, ""];
}

// Python's round: of two whole numbers that are as near, the even one.
function evenly(value) {
  const below = Math.floor(value), rest = value - below;
  return rest === 0.5 ? below + (below % 2) : Math.round(value);
}

// For each of `target` pixels, the pixels of a row of `size` that it covers, with their shares.
function areas(size, target) {
  const width = size / target;
  return Array.from({ length: target }, (_, number) => {
    const start = number * width, end = (number + 1) * width, covered = [];
    for (let pixel = Math.floor(start); pixel < Math.min(size, Math.ceil(end)); pixel++)
      covered.push([pixel, (Math.min(end, pixel + 1) - Math.max(start, pixel)) / width]);
    return covered;
  });
}

// The parts of ink that hang together, corners included: their pixels, their boxes, and how much ink they have.
function components(ink, height, width) {
  const seen = new Uint8Array(height * width), found = [];
  for (let first = 0; first < ink.length; first++) {
    if (seen[first] || !ink[first]) continue;
    const part = { places: [first], amount: 0, top: height, bottom: 0, left: width, right: 0 };
    seen[first] = 1;
    for (const place of part.places) { // grows while it is read
      const y = Math.floor(place / width), x = place % width;
      part.amount += ink[place];
      [part.top, part.bottom] = [Math.min(part.top, y), Math.max(part.bottom, y + 1)];
      [part.left, part.right] = [Math.min(part.left, x), Math.max(part.right, x + 1)];
      for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row++)
        for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column++) {
          const next = row * width + column;
          if (ink[next] && !seen[next]) { seen[next] = 1; part.places.push(next); }
        }
    }
    found.push(part);
  }
  return found;
}
