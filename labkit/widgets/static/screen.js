// A placeholder: the scene as text.
export default {
  render({ model, el }) {
    const text = document.createElement("pre");
    const draw = () => { text.textContent = JSON.stringify(model.get("scene"), null, 1); };
    model.on("change:scene", draw);
    el.append(text);
    draw();
    return () => model.off("change:scene", draw);
  },
};
