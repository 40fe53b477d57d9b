"use strict";
// Without this script the page shows film strips and plain curves; with it, a slider and the values under the pointer.

for (const reel of document.querySelectorAll(".reel")) {
  const frames = [...reel.querySelectorAll("figure")];
  if (frames.length < 2) continue;
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: frames.length - 1, step: 1 });
  const label = document.createElement("output");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Play" });
  const controls = Object.assign(document.createElement("div"), { className: "controls" });
  slider.setAttribute("aria-label", "training step");
  let timer = 0;
  const show = (index) => {
    frames.forEach((frame, i) => {
      frame.classList.toggle("shown", i === index);
      frame.setAttribute("aria-hidden", i !== index);
    });
    label.textContent = frames[index].querySelector("figcaption").textContent;
    slider.value = index;
    slider.setAttribute("aria-valuetext", label.textContent);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  };
  const next = () => {
    const index = Number(slider.value) + 1;
    if (index >= frames.length - 1) stop();
    show(Math.min(index, frames.length - 1));
  };
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === frames.length - 1) show(0);
    button.textContent = "Pause";
    timer = setInterval(next, 500);
  });
  controls.append(button, slider, label);
  reel.append(controls);
  reel.classList.add("live");
  reel.querySelector(".strip").removeAttribute("tabindex");
  show(frames.length - 1);
}

for (const chart of document.querySelectorAll(".chart[data-lines]")) {
  const lines = JSON.parse(chart.dataset.lines);
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  tip.setAttribute("role", "status");
  chart.append(tip);
  for (const svg of chart.querySelectorAll("svg[data-places]")) {
    const places = JSON.parse(svg.dataset.places);
    const box = svg.viewBox.baseVal;
    const rule = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "line"));
    rule.setAttribute("class", "rule");
    rule.setAttribute("visibility", "hidden");
    const nearest = (line, x) => {
      let best = -1;
      line.forEach((place, i) => {
        if (place && (best < 0 || Math.abs(place[0] - x) < Math.abs(line[best][0] - x))) best = i;
      });
      return best;
    };
    const hide = () => {
      tip.hidden = true;
      rule.setAttribute("visibility", "hidden");
    };
    const show = (event) => {
      const area = svg.getBoundingClientRect();
      const x = ((event.clientX - area.left) / area.width) * box.width;
      const found = places.map((line) => nearest(line, x));
      const first = found.findIndex((i) => i >= 0);
      if (first < 0) return hide();
      const at = places[first][found[first]][0];
      for (const [name, value] of [["x1", at], ["x2", at], ["y1", 10], ["y2", box.height - 26]]) rule.setAttribute(name, value);
      rule.setAttribute("visibility", "visible");
      const head = document.createElement("b");
      head.textContent = "step " + lines.values[first][found[first]][0].toLocaleString("en");
      tip.replaceChildren(head);
      found.forEach((i, k) => {
        if (i < 0) return;
        const [step, value] = lines.values[k][i];
        const row = document.createElement("div");
        const other = step === lines.values[first][found[first]][0] ? "" : " (step " + step.toLocaleString("en") + ")";
        row.textContent = lines.names[k] + " " + value + other;
        tip.append(row);
      });
      tip.hidden = false;
      const left = (at / box.width) * area.width;
      const room = area.width - tip.offsetWidth;
      tip.style.left = Math.max(0, left + 14 > room ? left - tip.offsetWidth - 14 : left + 14) + "px";
      tip.style.top = svg.offsetTop === undefined ? "40px" : area.top - chart.getBoundingClientRect().top + 14 + "px";
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }
}
