// Texts that can be seen and have less contrast to what is behind them than `least`: 4.5 for reading, by WCAG 2.
(least) => {
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const pixel = (...colours) => {
    const key = colours.join();
    if (!known.has(key)) known.set(key, painted(colours));
    return known.get(key);
  };
  const painted = (colours) => {
    brush.clearRect(0, 0, 1, 1);
    for (const colour of colours) (brush.fillStyle = colour), brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => rgb.map(linear).reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const backs = (node) => (node ? [...backs(node.parentElement), getComputedStyle(node).backgroundColor] : ["#fff"]);
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(node);
    const box = node.closest(".labkit-box");
    const behind = [...backs(node), ...(box ? [getComputedStyle(box.firstChild).fill] : [])];
    const front = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(pixel(...behind, front)), luminance(pixel(...behind))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least) poor.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
