// The body of a function of (element, trigger, props, server, upload, watch), which Gradio calls once the component is
// there. It draws the plots of props.value (plots.py says what they are made of), and keeps figures and focus from one
// value to the next. A component that was moved is sent as trigger("input", {at, radius}), and the frame
// that a slider was moved to, as a share of all, as trigger("select", {share}).

const COLORS = {
    light: {
        first: "#c2410c", second: "#0f766e", third: "#be185d", truth: "#0f172a", muted: "#64748b",
        back: "#ffffff", grid: "#cbd5e1", text: "#334155",
        density: ["#ffffff", "#ddd6fe", "#a78bfa", "#6d28d9", "#3b0764"],
    },
    dark: {
        first: "#fdba74", second: "#5eead4", third: "#f9a8d4", truth: "#f8fafc", muted: "#94a3b8",
        back: "#0f172a", grid: "#475569", text: "#cbd5e1",
        density: ["#0f172a", "#312e81", "#5b21b6", "#8b5cf6", "#ddd6fe"],
    },
};
const MARGIN = { left: 52, right: 14, top: 10, bottom: 42 };
const FRAMES_PER_SECOND = 12;
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const root = element.querySelector(".lab-plots");
const figures = [];

const theme = () => COLORS[document.body.classList.contains("dark") ? "dark" : "light"];
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const color = (name) => theme()[name === "density" ? "third" : name] ?? theme().first;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const shortly = (value) => String(Number(value.toPrecision(3)));

// ---------------------------------------------------------------------------------------------------------------- axes

function axis([low, high], log, from, to, room) {
    const place = log ? Math.log10 : (value) => value;
    const [a, b] = [place(low), place(high)];
    const to_pixel = (value) => from + ((place(value) - a) / (b - a)) * (to - from);
    const to_value = (pixel) => {
        const at = a + ((pixel - from) / (to - from)) * (b - a);
        return log ? 10 ** at : at;
    };
    return { low, high, log, to_pixel, to_value, ticks: log ? decades(low, high) : ticks(low, high, Math.abs(to - from) / room) };
}

function ticks(low, high, most) {
    const [a, b] = [Math.min(low, high), Math.max(low, high)];
    const rough = (b - a) / Math.max(2, Math.floor(most)), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(a / step - 1e-9); i * step <= b + 1e-9 * step; i++) found.push(i * step);
    return found;
}

function decades(low, high) {
    const [a, b] = [Math.min(low, high), Math.max(low, high)], found = [];
    for (let power = Math.floor(Math.log10(a)); 10 ** power <= b * 1.0001; power++) {
        for (const times of b / a < 200 ? [1, 2, 5] : [1]) {
            const value = times * 10 ** power;
            if (value >= a * 0.9999 && value <= b * 1.0001) found.push(value);
        }
    }
    return found;
}

function tick_text(value, log) {
    if (value === 0) return "0";
    if (log && (value < 0.01 || value >= 1e4)) return value.toExponential(0).replace("e+", "e");
    return shortly(value).replace("-", "−");
}

function draw_axes(pen, plot, x, y, width, height) {
    const colors = theme();
    pen.strokeStyle = colors.grid;
    pen.lineWidth = 1;
    pen.strokeRect(MARGIN.left + 0.5, MARGIN.top + 0.5, width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom);
    pen.fillStyle = colors.text;
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const value of x.ticks) {
        const at = x.to_pixel(value);
        pen.fillRect(at, height - MARGIN.bottom, 1, 4);
        pen.fillText(tick_text(value, x.log), at, height - MARGIN.bottom + 6);
    }
    pen.fillText(plot.x_label, (MARGIN.left + width - MARGIN.right) / 2, height - 17);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const value of y.ticks) {
        const at = y.to_pixel(value);
        pen.fillRect(MARGIN.left - 4, at, 4, 1);
        pen.fillText(tick_text(value, y.log), MARGIN.left - 7, at);
    }
    pen.save();
    pen.translate(11, (MARGIN.top + height - MARGIN.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText(plot.y_label, 0, 0);
    pen.restore();
}

// -------------------------------------------------------------------------------------------------------------- layers

function ramp(name) {
    const colors = theme(), stops = (name === "density" ? colors.density : [colors.back, color(name)]).map(rgb);
    return Array.from({ length: 256 }, (_, level) => {
        const at = (level / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
        return stops[low].map((value, i) => value + (at - low) * (stops[low + 1][i] - value));
    });
}

function heat_image(layer, frame) {
    const packed = layer.frames ? layer.frames[Math.min(frame, layer.frames.length - 1)] : layer.values;
    const key = `${frame} ${document.body.classList.contains("dark")}`;
    layer.images ??= {};
    if (layer.images[key]) return layer.images[key];
    const levels = atob(packed), colors = ramp(layer.color), image = new ImageData(layer.columns, layer.rows);
    for (let row = 0; row < layer.rows; row++) {
        for (let column = 0; column < layer.columns; column++) {
            const [r, g, b] = colors[levels.charCodeAt((layer.rows - 1 - row) * layer.columns + column)];
            image.data.set([r, g, b, 255], 4 * (row * layer.columns + column));
        }
    }
    const canvas = new OffscreenCanvas(layer.columns, layer.rows);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return (layer.images[key] = canvas);
}

const of_frame = (frames, frame) => frames[Math.min(frame, frames.length - 1)] ?? [];

const DRAW = {
    heat(pen, layer, x, y, frame) {
        const [left, right] = [x.to_pixel(x.low), x.to_pixel(x.high)], [low, high] = [y.to_pixel(y.low), y.to_pixel(y.high)];
        pen.imageSmoothingEnabled = true;
        pen.imageSmoothingQuality = "high";
        pen.drawImage(heat_image(layer, frame), left, high, right - left, low - high);
    },
    lines(pen, layer, x, y, frame, frames) {
        pen.strokeStyle = color(layer.color);
        pen.lineWidth = layer.width ?? 1.5;
        pen.lineJoin = "round";
        pen.globalAlpha = layer.opacity ?? 1;
        pen.setLineDash(layer.dashed ? [6, 5] : []);
        for (const line of layer.points ?? of_frame(layer.frames, frame)) {
            const share = frames > 1 ? frame / (frames - 1) : 1;
            const count = layer.upto_frame ? Math.round(share * (line.length - 1)) + 1 : line.length;
            pen.beginPath();
            for (const [px, py] of line.slice(0, count)) {
                const at = [x.to_pixel(px), y.to_pixel(py)];
                if (at.every(Number.isFinite)) pen.lineTo(...at);
            }
            pen.stroke();
        }
        pen.setLineDash([]);
        pen.globalAlpha = 1;
    },
    points(pen, layer, x, y, frame) {
        pen.fillStyle = color(layer.color);
        pen.strokeStyle = theme().back;
        pen.lineWidth = 0.6;
        for (const [px, py] of of_frame(layer.frames, frame)) {
            pen.beginPath();
            pen.arc(x.to_pixel(px), y.to_pixel(py), layer.size ?? 2.5, 0, 2 * Math.PI);
            pen.fill();
            pen.stroke();
        }
    },
    arrows(pen, layer, x, y, frame) {
        pen.strokeStyle = pen.fillStyle = color(layer.color);
        pen.lineWidth = 1.2;
        const moved = of_frame(layer.frames, frame);
        layer.at.forEach(([px, py], i) => {
            const [dx, dy] = moved[i] ?? [0, 0];
            const [ax, ay] = [x.to_pixel(px), y.to_pixel(py)], [bx, by] = [x.to_pixel(px + dx), y.to_pixel(py + dy)];
            const length = Math.hypot(bx - ax, by - ay);
            if (!(length > 1)) return;
            const angle = Math.atan2(by - ay, bx - ax), head = Math.min(5, length / 2);
            pen.beginPath();
            pen.moveTo(ax, ay);
            pen.lineTo(bx, by);
            for (const side of [-1, 1]) {
                pen.moveTo(bx, by);
                pen.lineTo(bx - head * Math.cos(angle + side * 0.5), by - head * Math.sin(angle + side * 0.5));
            }
            pen.stroke();
        });
    },
    handles(pen, layer, x, y) {
        pen.strokeStyle = color("truth");
        layer.at.forEach(([px, py], i) => {
            const [cx, cy] = [x.to_pixel(px), y.to_pixel(py)], radius = layer.radius[i] ?? 0;
            pen.lineWidth = 1.5;
            pen.beginPath();
            if (layer.axis === "y") {
                pen.moveTo(cx, y.to_pixel(py - radius));
                pen.lineTo(cx, y.to_pixel(py + radius));
            } else {
                pen.ellipse(cx, cy, Math.abs(x.to_pixel(px + radius) - cx), Math.abs(y.to_pixel(py + radius) - cy), 0, 0, 2 * Math.PI);
            }
            pen.stroke();
            pen.fillStyle = theme().back;
            pen.lineWidth = 2.5;
            pen.beginPath();
            pen.arc(cx, cy, 7, 0, 2 * Math.PI);
            pen.fill();
            pen.stroke();
        });
    },
};

// ------------------------------------------------------------------------------------------------------------- figures

function made(tag, properties = {}, parent = null) {
    const node = Object.assign(document.createElement(tag), properties);
    parent?.append(node);
    return node;
}

class Figure {
    constructor() {
        this.box = made("figure", { className: "lab-figure" }, root);
        this.title = made("figcaption", {}, this.box);
        this.stage = made("div", { className: "lab-stage" }, this.box);
        this.canvas = made("canvas", {}, this.stage);
        this.canvas.setAttribute("role", "img");
        this.legend = made("ul", { className: "lab-legend" }, this.box);
        this.controls = made("div", { className: "lab-controls" }, this.box);
        this.play_button = made("button", { type: "button", className: "lab-play", onclick: () => this.toggle() }, this.controls);
        this.slider = made("input", { type: "range", min: 0, step: 1, oninput: () => this.scrub() }, this.controls);
        this.label = made("output", {}, this.controls);
        this.buttons = [];
        this.frame = null;
        this.timer = null;
        new ResizeObserver(() => this.draw()).observe(this.stage);
    }

    update(plot) {
        const begins = plot.start !== undefined && plot.title !== this.plot?.title;
        const last = this.plot ? this.frame === this.plot.frames - 1 : true;
        const share = this.plot && this.plot.frames > 1 ? this.frame / (this.plot.frames - 1) : 1;
        const before = this.layer;
        this.layer = plot.layers.find((layer) => layer.kind === "handles");
        // what is being moved meanwhile stays where it is
        if (this.moving && before?.at.length === this.layer?.at.length) Object.assign(this.layer, { at: before.at, radius: before.radius });
        this.plot = plot;
        this.frame = begins ? plot.start : last ? plot.frames - 1 : Math.round(share * (plot.frames - 1));
        this.box.hidden = false;
        this.box.classList.toggle("lab-square", Boolean(plot.square));
        this.box.classList.toggle("lab-wide", Boolean(plot.wide));
        this.title.textContent = plot.title;
        this.canvas.setAttribute("aria-label", plot.description);
        this.controls.hidden = plot.frames < 2;
        this.slider.max = plot.frames - 1;
        this.slider.setAttribute("aria-label", `Frame of ${plot.title}`);
        if (plot.frames < 2) this.pause();
        this.set_legend();
        this.set_buttons();
        this.say_play();
        this.draw();
    }

    remove() {
        this.pause();
        this.box.hidden = true;
    }

    set_legend() {
        const labelled = this.plot.layers.filter((layer) => layer.label && layer.kind !== "handles");
        this.legend.replaceChildren();
        for (const layer of labelled) {
            const row = made("li", {}, this.legend), mark = made("span", { className: `lab-mark lab-${layer.kind}` }, row);
            mark.classList.toggle("lab-dashed", Boolean(layer.dashed));
            mark.dataset.color = layer.color;
            row.append(layer.label);
        }
        this.legend.hidden = labelled.length === 0;
    }

    // ------------------------------------------------------------------------------------------------------ drawing

    draw() {
        const width = this.stage.clientWidth;
        if (!this.plot || !width) return;
        const height = this.plot.square ? width : Math.round(clamp(width * (this.plot.aspect ?? 0.6), 230, 460)), sharp = window.devicePixelRatio || 1;
        this.canvas.width = Math.round(width * sharp);
        this.canvas.height = Math.round(height * sharp);
        this.canvas.style.height = `${height}px`;
        this.x = axis(this.plot.x, this.plot.log_x, MARGIN.left, width - MARGIN.right, 70);
        this.y = axis(this.plot.y, this.plot.log_y, height - MARGIN.bottom, MARGIN.top, 40);
        const pen = this.canvas.getContext("2d");
        pen.setTransform(sharp, 0, 0, sharp, 0, 0);
        pen.font = `12px ${getComputedStyle(this.box).fontFamily}`;
        pen.fillStyle = theme().back;
        pen.fillRect(0, 0, width, height);
        pen.save();
        pen.beginPath();
        pen.rect(MARGIN.left, MARGIN.top, width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom);
        pen.clip();
        const under = this.plot.layers.filter((layer) => layer.kind !== "handles");
        for (const layer of under) DRAW[layer.kind]?.(pen, layer, this.x, this.y, this.frame, this.plot.frames);
        pen.restore();
        draw_axes(pen, this.plot, this.x, this.y, width, height);
        if (this.layer) DRAW.handles(pen, this.layer, this.x, this.y);
        this.place_buttons();
        for (const mark of this.legend.querySelectorAll(".lab-mark")) mark.style.color = color(mark.dataset.color);
        this.slider.value = this.frame;
        this.label.textContent = this.plot.frame_labels?.[this.frame] ?? `${this.frame + 1} of ${this.plot.frames}`;
        this.slider.setAttribute("aria-valuetext", this.label.textContent);
        this.canvas.dataset.frame = this.frame;
    }

    // ------------------------------------------------------------------------------------------------------ playing

    toggle() {
        if (calm.matches) this.show((this.frame + 1) % this.plot.frames);
        else if (this.timer) this.pause();
        else this.play();
    }

    play() {
        if (this.frame === this.plot.frames - 1) this.show(0);
        this.timer = setInterval(() => {
            if (!this.box.isConnected || this.frame >= this.plot.frames - 1) this.pause();
            else this.show(this.frame + 1);
        }, 1000 / FRAMES_PER_SECOND);
        this.say_play();
    }

    pause() {
        clearInterval(this.timer);
        this.timer = null;
        this.say_play();
    }

    say_play() {
        this.play_button.textContent = calm.matches ? "Next frame" : this.timer ? "❚❚ Pause" : "▶ Play";
    }

    scrub() {
        this.pause();
        this.show(Number(this.slider.value));
        clearTimeout(this.picking);
        this.picking = setTimeout(() => trigger("select", { share: this.frame / (this.plot.frames - 1) }), 150);
    }

    show(frame) {
        this.frame = frame;
        this.draw();
    }

    // ------------------------------------------------------------------------------------------------------ handles

    set_buttons() {
        const count = this.layer?.at.length ?? 0;
        while (this.buttons.length < count) this.buttons.push(this.new_button(this.buttons.length));
        this.buttons.forEach((button, index) => {
            button.hidden = index >= count;
            if (index < count) button.setAttribute("aria-label", this.spoken(index));
        });
    }

    spoken(index) {
        const [px, py] = this.layer.at[index], place = this.layer.axis === "y" ? shortly(py) : `${shortly(px)}, ${shortly(py)}`;
        const keys = this.layer.axis === "y" ? "up and down" : "the arrow keys";
        return `Component ${index + 1} at ${place}, width ${shortly(this.layer.radius[index] ?? 0)}; ${keys} move it, plus and minus change its width`;
    }

    new_button(index) {
        const button = made("button", { type: "button", className: "lab-handle" }, this.stage);
        button.addEventListener("pointerdown", (event) => {
            button.setPointerCapture(event.pointerId);
            button.focus();
            this.held = index;
            event.preventDefault();
        });
        button.addEventListener("pointermove", (event) => {
            if (this.held !== index) return;
            const box = this.canvas.getBoundingClientRect();
            this.move(index, this.x.to_value(event.clientX - box.left), this.y.to_value(event.clientY - box.top));
        });
        const drop = () => {
            if (this.held === index) this.send();
            this.held = null;
        };
        button.addEventListener("pointerup", drop);
        button.addEventListener("pointercancel", drop);
        button.addEventListener("keydown", (event) => this.pressed(index, event));
        return button;
    }

    pressed(index, event) {
        const size = (event.shiftKey ? 0.05 : 0.01) * Math.abs(this.y.high - this.y.low), [px, py] = this.layer.at[index];
        const moves = { ArrowLeft: [-size, 0], ArrowRight: [size, 0], ArrowUp: [0, size], ArrowDown: [0, -size] };
        const widths = { "+": 1.1, "=": 1.1, "-": 1 / 1.1 };
        if (moves[event.key]) this.move(index, px + moves[event.key][0], py + moves[event.key][1]);
        else if (widths[event.key]) this.layer.radius[index] = clamp(this.layer.radius[index] * widths[event.key], 0.02, 2);
        else return;
        event.preventDefault();
        this.moving = true;
        this.draw();
        clearTimeout(this.sending);
        this.sending = setTimeout(() => this.send(), 250);
    }

    move(index, px, py) {
        this.moving = true;
        const inside = (value, scale) => clamp(value, Math.max(Math.min(scale.low, scale.high), -3), Math.min(Math.max(scale.low, scale.high), 3));
        this.layer.at[index] = [this.layer.axis === "y" ? this.layer.at[index][0] : inside(px, this.x), inside(py, this.y)];
        this.draw();
    }

    send() {
        this.moving = false;
        this.set_buttons();
        trigger("input", { at: this.layer.at, radius: this.layer.radius });
    }

    place_buttons() {
        this.layer?.at.forEach(([px, py], index) => {
            this.buttons[index].style.left = `${this.x.to_pixel(px)}px`;
            this.buttons[index].style.top = `${this.y.to_pixel(py)}px`;
        });
    }
}

// --------------------------------------------------------------------------------------------------------------- value

function show() {
    const plots = JSON.parse(props.value || "[]");
    while (figures.length < plots.length) figures.push(new Figure());
    root.dataset.drawn = Number(root.dataset.drawn ?? 0) + 1;
    figures.forEach((figure, index) => (index < plots.length ? figure.update(plots[index]) : figure.remove()));
}

const redraw = () => figures.forEach((figure) => figure.draw());
new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
calm.addEventListener("change", () => figures.forEach((figure) => figure.say_play()));
watch("value", show);
show();
