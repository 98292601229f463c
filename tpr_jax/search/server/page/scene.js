// An enlarged photo in its scene: the whole frame with a box around the person, and the seconds around the moment. Plays the
// video where the browser can, and else shows the server's frames one after the other.
import { NO_SERVER, readJson } from "./api.js";
import { $ } from "./dom.js";

const CLOSE = 0.05; // seconds by which a frame may differ from the moment whose box is drawn

let offered = false; // whether the server shows scenes
let wanted = false; // whether somebody has asked for scenes, which holds for the next photos too
let shown = null; // { address, version, scene, seconds, playing, timer } of the photo in the dialog

export const offerScenes = (scenes) => (offered = scenes);

export function prepareScene() {
  $("in_scene").onclick = toggleScene;
  $("play").onclick = togglePlay;
  $("moment").oninput = () => (pause(), showMoment());
  $("film").ontimeupdate = stopAfterMoment;
  $("film").onseeked = drawBox;
  $("film").onplay = $("film").onpause = updateButton;
  $("film").onerror = () => $("film").src && playFrames();
}

export function toggleScene() {
  if ($("in_scene").hidden) return;
  wanted = !wanted;
  render();
}

// Shows a photo of a version of the index, in its scene if that is wanted.
export function openScene(result, version) {
  closeScene();
  $("in_scene").hidden = !offered || !result.box;
  shown = { address: `api/scenes/${result.row}`, version, alt: `The scene of ${result.path}`, scene: null };
  render();
}

export function closeScene() {
  if (!shown) return;
  $("film").removeAttribute("src");
  $("film").load();
  showFilm(false);
  setShown(false);
  $("moment").hidden = true;
  $("frame").removeAttribute("src");
  $("moment_time").textContent = $("scene_said").textContent = "";
  shown = null;
}

const addressOf = (path) => `${shown.address}${path}?v=${shown.version}`;

async function render() {
  const on = wanted && !$("in_scene").hidden;
  $("in_scene").setAttribute("aria-pressed", on);
  $("scene_said").textContent = "";
  if (!on) return setShown(false);
  const current = shown;
  if (!current.scene) {
    $("scene_said").textContent = "Loading the scene…";
    const scene = await fetchAnswer(addressOf(""));
    if (shown !== current || !wanted) return; // another photo is shown by now
    $("scene_said").textContent = scene.detail ?? "";
    if (scene.detail) return setShown(false); // the photo itself stays
    current.scene = scene;
    $("frame").src = addressOf("/frame");
    $("frame").alt = current.alt;
  }
  setShown(true);
  drawBox();
}

function setShown(on) {
  $("scene").hidden = !on;
  $("full").hidden = on;
  $("view").classList.toggle("whole", on);
  $("view").style.aspectRatio = on ? shown.scene.width / shown.scene.height : "";
  $("player").hidden = !on || shown.scene.kind !== "video";
  if (on) updateButton();
  else pause();
}

// Returns the answer, or what went wrong as `detail`.
async function fetchAnswer(address) {
  try {
    const response = await fetch(address);
    const answer = await readJson(response);
    return response.ok ? answer : { detail: `${answer.detail ?? `The server answered ${response.status}`}.` };
  } catch {
    return { detail: NO_SERVER };
  }
}

// The box belongs to one frame only.
function drawBox() {
  const { box, width, height, seconds } = shown?.scene ?? {};
  const film = $("film");
  const at = film.hidden ? shown?.seconds?.[$("moment").value] : film.currentTime;
  const fits = film.hidden || Math.abs(film.videoWidth / film.videoHeight - width / height) < 0.02;
  const isMoment = !box ? false : at === undefined || Math.abs(at - seconds) < CLOSE;
  $("outline").classList.toggle("off", !isMoment || !fits);
  if (!box) return;
  $("outline").setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const rect of $("outline").children) {
    ["x", "y", "width", "height"].forEach((name, i) => rect.setAttribute(name, box[i]));
  }
}

// Handles the key for playing, also before the button has the focus.
export function togglePlay() {
  if (!wanted || !shown?.scene || shown.scene.kind !== "video") return;
  if (isPlaying()) return pause();
  if (shown.seconds) return playFrames();
  if (!shown.scene.media_type || shown.failed) return playFrames();
  playFilm();
}

const isPlaying = () => Boolean(shown?.timer) || (!$("film").hidden && !$("film").paused);

function pause() {
  clearTimeout(shown?.timer);
  if (shown) shown.timer = 0;
  $("film").pause();
  updateButton();
}

function updateButton() {
  $("play").textContent = isPlaying() ? "Pause" : "Play";
  if (!$("film").hidden) drawBox();
}

function playFilm() {
  const film = $("film");
  const { seconds, before, after } = shown.scene;
  const start = Math.max(seconds - before, 0);
  shown.stop = seconds + after;
  if (film.hidden) {
    showFilm(true);
    film.src = addressOf("/video");
    film.onloadedmetadata = () => {
      film.currentTime = start;
      film.play().catch(() => {}); // the browser asks for a click first, or the source has changed
    };
    return;
  }
  if (film.currentTime >= shown.stop || film.ended) film.currentTime = start;
  film.play().catch(() => {});
}

// Controls only while it is shown: dialogs give the focus to a hidden video that has them.
function showFilm(on) {
  $("film").hidden = !on;
  $("film").controls = on;
  $("frame").hidden = on;
}

function stopAfterMoment() {
  drawBox();
  if (!shown?.stop || $("film").currentTime < shown.stop) return;
  $("film").pause();
  shown.stop = 0; // from here on, the video's own controls play the rest
}

// Shows frames of the server, in place of a video that the browser cannot play.
async function playFrames() {
  const current = shown;
  if (!current?.scene) return;
  current.failed = true;
  showFilm(false);
  if (!current.seconds) {
    $("scene_said").textContent = "Loading the frames…";
    const answer = await fetchAnswer(addressOf("/moments"));
    if (shown !== current) return;
    $("scene_said").textContent = answer.detail ?? "";
    if (answer.detail) return;
    current.seconds = answer.seconds;
    current.images = answer.seconds.map((_, i) => Object.assign(new Image(), { src: addressOf(`/moments/${i}`) }));
    $("moment").max = answer.seconds.length - 1;
    $("moment").value = 0;
    $("moment").hidden = false;
    await Promise.all(current.images.map((image) => image.decode().catch(() => {})));
    if (shown !== current) return;
  } else if (Number($("moment").value) === current.seconds.length - 1) {
    $("moment").value = 0;
  }
  current.timer = -1;
  step(current);
}

function step(current) {
  if (shown !== current || !current.timer) return;
  showMoment();
  const index = Number($("moment").value);
  if (index === current.seconds.length - 1) return pause();
  const wait = 1000 * (current.seconds[index + 1] - current.seconds[index]);
  current.timer = setTimeout(() => (($("moment").value = index + 1), step(current)), wait);
  updateButton();
}

function showMoment() {
  const index = Number($("moment").value);
  const offset = shown.seconds[index] - shown.scene.seconds;
  $("frame").src = shown.images[index].src;
  const far = Math.abs(offset).toFixed(1);
  $("moment_time").textContent = Math.abs(offset) < CLOSE ? "the moment" : `${far} s ${offset < 0 ? "before" : "after"}`;
  $("moment").setAttribute("aria-valuetext", $("moment_time").textContent);
  drawBox();
}
