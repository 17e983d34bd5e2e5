"""The scripts of the interactive figures: functions of an element and its data that load nothing from anywhere."""

# What `routes` runs: a square a map, the picture faint under it; pointing at a patch hides the patches of other experts.
ROUTES = """(root, {source, maps, colours}) => {
  const side = 176, panels = [], image = new Image();
  const make = (parent, tag, style) => Object.assign(parent.appendChild(document.createElement(tag)), {style});
  const row = make(root, "div", "display:flex;gap:10px;font:12px sans-serif"), at = {y: -1, x: -1};
  const paint = () => panels.forEach(({pen, map, title, name}) => {
    const n = map.length, d = side / n, mine = at.y < 0 ? -1 : map[at.y][at.x];
    pen.globalAlpha = 1; pen.fillStyle = "#fff"; pen.fillRect(0, 0, side, side);
    pen.globalAlpha = mine < 0 ? 0.4 : 0.9; pen.drawImage(image, 0, 0, side, side);
    map.forEach((line, y) => line.forEach((expert, x) => {
      pen.fillStyle = mine < 0 || expert === mine ? colours[expert] : "#fff"; pen.globalAlpha = 0.6;
      pen.fillRect(x * d, y * d, d - 1, d - 1);
    }));
    if (mine >= 0) { pen.globalAlpha = 1; pen.lineWidth = 2; pen.strokeRect(at.x * d, at.y * d, d, d); }
    title.textContent = mine < 0 ? name : `${name}: expert ${mine}, ${map.flat().filter(e => e === mine).length} patches`;
  });
  Object.entries(maps).forEach(([layer, map]) => {
    const box = make(row, "div", ""), title = make(box, "div", "height:18px"), name = `layer ${layer}`;
    const canvas = Object.assign(make(box, "canvas", "cursor:crosshair"), {width: side, height: side});
    panels.push({pen: canvas.getContext("2d"), map, title, name});
    const cell = value => Math.min(map.length - 1, Math.max(0, Math.floor(value / side * map.length)));
    canvas.onmousemove = event => { at.y = cell(event.offsetY); at.x = cell(event.offsetX); paint(); };
    canvas.onmouseleave = () => { at.y = at.x = -1; paint(); };
  });
  image.onload = paint; image.src = source;
}"""

# What `linked` runs: frames over pictures, boxes below, one lit pair at a time.
LINKED = """(root, {sources, tokens, places, grid}) => {
  const side = 96, make = (parent, tag, style) => Object.assign(parent.appendChild(document.createElement(tag)), {style});
  const row = make(root, "div", "display:flex;gap:6px;margin-bottom:8px"), frames = [], boxes = [];
  const light = n => {
    boxes.forEach((box, i) => box.style.background = i === n ? "#E69F00" : places[i] ? "#8cd0bb" : "#8cbcdb");
    frames.forEach((frame, t) => { const at = places[n], on = at && at[0] === t, d = side / grid;
      frame.style.cssText = on ? `position:absolute;outline:3px solid #E69F00;top:${at[1] * d}px;left:${at[2] * d}px;` +
        `width:${d}px;height:${d}px` : "display:none"; });
  };
  sources.forEach((source, t) => {
    const hold = make(row, "div", "position:relative;line-height:0");
    const image = make(hold, "img", `width:${side}px;height:${side}px;image-rendering:pixelated`);
    image.src = source; frames.push(make(hold, "div", "display:none"));
    hold.onmousemove = event => { const at = image.getBoundingClientRect();
      const [y, x] = [event.clientY - at.top, event.clientX - at.left].map(v => Math.min(grid - 1, Math.floor(v / side * grid)));
      light(places.findIndex(p => p && p[0] === t && p[1] === y && p[2] === x)); };
  });
  tokens.forEach((text, n) => { const box = make(root, "code", "display:inline-block;margin:1px;padding:1px 4px;color:#000");
    box.textContent = text; box.onmouseenter = () => light(n); boxes.push(box); });
  light(-1);
}"""
