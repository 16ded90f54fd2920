// What anywidget gives a view, without a kernel: it holds a state, notes what is sent, and tells what happens.
(state) => {
  const heard = {};
  return {
    sent: [],
    dead: false,
    view: { model: { comm_live: true } }, // what a listener has as `this`
    get: (name) => state[name],
    on: (name, told) => (heard[name] ??= []).push(told),
    off: (name, told) => (heard[name] = (heard[name] ?? []).filter((one) => one !== told)),
    send(content) {
      if (this.dead) throw new Error("Kernel is dead");
      this.sent.push(content);
    },
    listeners: () => Object.values(heard).flat().length,
    tell(name, ...what) {
      (heard[name] ?? []).forEach((told) => told.apply(this.view, what));
    },
    frame(scene) {
      state.scene = scene;
      this.tell("change:scene");
    },
  };
}
