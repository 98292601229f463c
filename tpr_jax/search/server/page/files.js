// Photos that are chosen, dragged in or pasted: which file is taken, and what is said of everything else.
import { $ } from "./dom.js";

const PATIENCE = 1000; // ms without a word of the drag until it is over: browsers send one each 350 ms or sooner
const WANTED = "choose, drop or paste a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF";

const types = () => $("file").accept.split(",");

// A name as long as can be read in a line.
export function short(name) {
  return name.length > 60 ? `${name.slice(0, 40)}…${name.slice(-15)}` : name;
}

// { file, others } of what was given, or { why } where no photo is among it. A type that the browser does not know
// is left to the server. Folders can be told from files in a drop only (`folders`, their names).
export function choose(files, folders = []) {
  const inside = [...files].filter(({ name }) => !folders.includes(name));
  const photos = inside.filter(({ type }) => !type || types().includes(type));
  if (photos.length) return { file: photos[0], others: files.length - 1 };
  if (folders.length) return { why: `${short(folders[0])} is a folder: ${WANTED}.` };
  const first = inside[0];
  if (!first) return { why: `That is not a photo: ${WANTED}.` };
  const named = short(first.name) || "That file";
  const kind = first.type.startsWith("image/") ? `of a kind that cannot be read (${first.type})` : "not a photo";
  return { why: `${named} is ${kind}: ${WANTED}.` };
}

// Why a photo cannot be sent, or "". A folder, or a file that is gone since, shows only when it is read.
export async function problem(file, most) {
  if (file.size > most) {
    const mb = (bytes) => (bytes / 1e6).toFixed(1);
    return `The photo has ${mb(file.size)} MB: at most ${mb(most)}. Make it smaller, or cut the person out.`;
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return `${short(file.name)} cannot be read: it is a folder, or was moved or changed. Choose it again.`;
  }
  return "";
}

const editable = (target) => target.closest?.("input:not([type=range], [type=checkbox], [type=file]), textarea");
const hasFiles = (data) => [...data.types].includes("Files");

// `take(file, others)` gets the photo, `refuse(why)` a line that says why there is none.
export function listenForFiles(take, refuse) {
  const decide = (files, folders) => {
    const { file, others, why } = choose(files, folders);
    if (file) take(file, others);
    else refuse(why);
  };
  let timer;
  const over = (shown) => {
    clearTimeout(timer);
    $("over").hidden = !shown;
    if (shown) timer = setTimeout(over, PATIENCE, false);
  };

  $("file").onchange = () => {
    const files = [...$("file").files];
    $("file").value = ""; // so that the same file can be chosen again
    if (files.length) decide(files);
  };
  addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    // Office programs give a picture of the text along with it.
    if (!files.length || (editable(event.target) && event.clipboardData.getData("text/plain"))) return;
    event.preventDefault();
    decide(files);
  });
  for (const type of ["dragenter", "dragover"]) {
    addEventListener(type, (event) => {
      if (!hasFiles(event.dataTransfer) && editable(event.target)) return; // a text, to where texts go
      event.preventDefault(); // or the browser leaves for what is dropped
      if (hasFiles(event.dataTransfer)) over(true);
    });
  }
  addEventListener("drop", (event) => {
    over(false);
    const data = event.dataTransfer;
    if (!hasFiles(data) && editable(event.target)) return;
    event.preventDefault();
    const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    decide(data.files, entries.filter((entry) => entry.isDirectory).map(({ name }) => name));
  });
  addEventListener("dragleave", (event) => event.relatedTarget || over(false));
  // None of these comes amid a drag.
  for (const type of ["dragend", "pointerdown", "pointermove", "keydown", "blur", "pagehide"]) {
    addEventListener(type, () => over(false));
  }
}
