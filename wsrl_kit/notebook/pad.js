// The pad in the browser: what a person holds, of keys, buttons on the screen and a gamepad, told to the kernel over and
// over. It sends the time that the kernel told it last, by which the kernel knows how old a message is.

const PERIOD = 50; // ms between two messages
const UNANSWERED = 20; // messages after which a kernel that is busy gets few more
const SILENCE = 500; // ms without an answer, after which the pad says so
const DEAD_ZONE = 0.15; // of a stick, which rests beside its middle

// Entry of the motion (x, y, z, around x, y, z, gripper) and its sign; "stay" takes over and moves nothing.
const MOTIONS = [
  { label: "+x", code: "KeyW", key: "W", entry: 0, sign: 1 },
  { label: "\u2212x", code: "KeyS", key: "S", entry: 0, sign: -1 },
  { label: "+y", code: "KeyA", key: "A", entry: 1, sign: 1 },
  { label: "\u2212y", code: "KeyD", key: "D", entry: 1, sign: -1 },
  { label: "+z", code: "KeyR", key: "R", entry: 2, sign: 1 },
  { label: "\u2212z", code: "KeyF", key: "F", entry: 2, sign: -1 },
  { label: "+rx", code: "KeyJ", key: "J", entry: 3, sign: 1 },
  { label: "\u2212rx", code: "KeyL", key: "L", entry: 3, sign: -1 },
  { label: "+ry", code: "KeyI", key: "I", entry: 4, sign: 1 },
  { label: "\u2212ry", code: "KeyK", key: "K", entry: 4, sign: -1 },
  { label: "+rz", code: "KeyU", key: "U", entry: 5, sign: 1 },
  { label: "\u2212rz", code: "KeyO", key: "O", entry: 5, sign: -1 },
  { label: "open", code: "KeyV", key: "V", entry: 6, sign: 1 },
  { label: "close", code: "KeyC", key: "C", entry: 6, sign: -1 },
  { label: "stay", code: "Space", key: "space", entry: 0, sign: 0 },
];

// Verdict by key, as in a terminal, and by a gamepad's button: start, back, Y, left and right shoulder.
const VERDICTS = { y: "success", n: "failure", enter: "keep", x: "discard", z: "redo" };
const PRESSED = { 9: "success", 8: "failure", 3: "keep", 4: "discard", 5: "redo" };

// The first gamepad in the standard layout: left stick x and y, right stick z and around z, cross around x and y,
// A opens, B closes, X stays.
function gamepad() {
  const pad = [...(navigator.getGamepads?.() ?? [])].find((each) => each?.mapping === "standard");
  if (!pad) return { motion: [0, 0, 0, 0, 0, 0, 0], stays: false, verdict: null };
  const stick = (axis) => (Math.abs(pad.axes[axis]) < DEAD_ZONE ? 0 : -pad.axes[axis]);
  const pair = (plus, minus) => Number(pad.buttons[plus].pressed) - Number(pad.buttons[minus].pressed);
  return {
    motion: [stick(1), stick(0), stick(3), pair(15, 14), pair(12, 13), stick(2), pair(0, 1)],
    stays: pad.buttons[2].pressed,
    verdict: PRESSED[Object.keys(PRESSED).find((button) => pad.buttons[button].pressed)] ?? null,
  };
}

export default () => {
  const held = new Set(); // of all views of the pad together
  let told = null; // the kernel's time
  let heardAt = 0; // when it was told, by the browser's clock, ms
  let unanswered = 0;
  let views = 0; // none: nobody can see who acts
  let ticks = 0;
  let wasHolding = false;
  let wasPressed = null;

  function tick(model) {
    if (views === 0 && !wasHolding) return;
    const { motion, stays, verdict } = gamepad();
    if (verdict !== wasPressed && verdict !== null) model.send({ verdict });
    wasPressed = verdict;
    for (const { entry, sign } of held) motion[entry] += sign;
    const isHolding = held.size > 0 || stays || motion.some((value) => value !== 0);
    const isReleased = wasHolding && !isHolding;
    wasHolding = isHolding;
    ticks += 1;
    if (unanswered > UNANSWERED && ticks % UNANSWERED !== 0 && !isReleased) return;
    unanswered += 1;
    const kept = (performance.now() - heardAt) / 1000;
    model.send({ motion: isHolding ? motion : null, released: isReleased, told, kept });
  }

  return {
    initialize({ model }) {
      model.on("msg:custom", (message) => {
        told = message.time;
        heardAt = performance.now();
        unanswered = 0;
      });
      const timer = setInterval(() => tick(model), PERIOD);
      return () => clearInterval(timer);
    },

    render({ model, el }) {
      const pad = document.createElement("div");
      pad.className = "wsrl-pad";
      pad.tabIndex = 0;
      pad.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys, which delete cells
      const state = document.createElement("div");
      const hint = "click here, then hold a key, a button or a stick";
      const regain = "hold a key to act, let it go to hand back";
      state.textContent = hint;
      const link = document.createElement("div");
      link.className = "wsrl-pad-link";
      pad.append(state, link);

      const gripper = []; // buttons that only a task with one shows
      for (const motion of MOTIONS) {
        const button = document.createElement("button");
        button.tabIndex = -1;
        button.textContent = `${motion.label} (${motion.key})`;
        button.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          pad.focus();
          button.setPointerCapture(event.pointerId);
          held.add(motion);
        });
        for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
          button.addEventListener(end, () => held.delete(motion));
        }
        if (motion.entry === 6) gripper.push(button);
        pad.append(button);
      }

      const ofKey = (event) => MOTIONS.find((motion) => motion.code === event.code);
      const letGo = () => held.clear();
      pad.addEventListener("keydown", (event) => {
        // With these held, some systems never say that another key was let go.
        if (event.ctrlKey || event.metaKey || event.altKey) return letGo();
        const motion = ofKey(event);
        const verdict = VERDICTS[event.key.toLowerCase()];
        if (!motion && !verdict) return;
        event.preventDefault();
        event.stopPropagation();
        if (motion) held.add(motion);
        else if (!event.repeat) model.send({ verdict });
      });
      pad.addEventListener("keyup", (event) => held.delete(ofKey(event)));
      pad.addEventListener("blur", letGo);
      window.addEventListener("blur", letGo);
      document.addEventListener("visibilitychange", letGo);

      const show = (message) => {
        pad.classList.toggle("wsrl-pad-acts", message.acts);
        pad.classList.toggle("wsrl-pad-holds", message.holds);
        for (const button of gripper) button.hidden = !message.gripper;
        if (message.acts) state.textContent = "you act";
        else if (message.trouble) state.textContent = `the robot holds: ${message.trouble}`;
        else if (message.is_held) state.textContent = "the robot holds: press Hold again to go on";
        else if (message.holds) state.textContent = `the robot holds, your word came too late: ${regain}`;
        else state.textContent = `${message.idle}: ${hint}`;
        if (message.delay !== null) link.textContent = `link: ${Math.round(1000 * message.delay)} ms there and back`;
      };
      const watchLink = setInterval(() => {
        const silence = performance.now() - heardAt;
        if (told === null || silence < SILENCE) return;
        link.textContent = `link: no answer for ${(silence / 1000).toFixed(1)} s`;
      }, SILENCE / 2);
      model.on("msg:custom", show);
      el.append(pad);
      views += 1;
      return () => {
        views -= 1;
        letGo();
        clearInterval(watchLink);
        window.removeEventListener("blur", letGo);
        document.removeEventListener("visibilitychange", letGo);
        model.off("msg:custom", show);
      };
    },
  };
};
