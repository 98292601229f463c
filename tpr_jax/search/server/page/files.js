// Photos that are chosen, dropped or pasted: which file is used, and the message for any other.
import { $ } from "./dom.js";

const DRAG_TIMEOUT = 1000; // ms without an event until a drag is over: browsers send one at least every 350 ms
const HINT = "choose, drop or paste a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC";

const types = () => $("file").accept.split(",");

// Shortens a file name to fit on one line.
export function shorten(name) {
  return name.length > 60 ? `${name.slice(0, 40)}…${name.slice(-15)}` : name;
}

// Returns { file, others }: the first photo, and the number of other files; or { error } if there is no photo. Files
// whose type the browser does not know are left to the server. `folders` are the names of the folders among the files,
// which only a drop tells apart.
export function choosePhoto(files, folders = []) {
  const inside = [...files].filter(({ name }) => !folders.includes(name));
  const photos = inside.filter(({ type }) => !type || types().includes(type));
  if (photos.length) return { file: photos[0], others: files.length - 1 };
  if (folders.length) return { error: `${shorten(folders[0])} is a folder: ${HINT}.` };
  const first = inside[0];
  if (!first) return { error: `That is not a photo: ${HINT}.` };
  const name = shorten(first.name) || "The file";
  const reason = first.type.startsWith("image/") ? `in an unsupported format (${first.type})` : "not a photo";
  return { error: `${name} is ${reason}: ${HINT}.` };
}

// Returns why a photo cannot be sent, or "". A folder, or a file that was removed, fails only when it is read.
export async function uploadError(file, maxBytes) {
  if (file.size > maxBytes) {
    const mb = (bytes) => (bytes / 1e6).toFixed(1);
    return `The photo has ${mb(file.size)} MB: at most ${mb(maxBytes)}. Make it smaller, or crop it to the person.`;
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return `${shorten(file.name)} cannot be read: it is a folder, or was moved or changed. Choose it again.`;
  }
  return "";
}

const editable = (target) => target.closest?.("input:not([type=range], [type=checkbox], [type=file]), textarea");
const hasFiles = (data) => [...data.types].includes("Files");

// Calls `onPhoto(file, others)` with a photo, or `onError(message)` if no photo was given.
export function listenForFiles(onPhoto, onError) {
  const handle = (files, folders) => {
    const { file, others, error } = choosePhoto(files, folders);
    if (file) onPhoto(file, others);
    else onError(error);
  };
  let timer;
  const showDropArea = (shown) => {
    clearTimeout(timer);
    $("over").hidden = !shown;
    if (shown) timer = setTimeout(showDropArea, DRAG_TIMEOUT, false);
  };

  $("file").onchange = () => {
    const files = [...$("file").files];
    $("file").value = ""; // allows the same file to be chosen again
    if (files.length) handle(files);
  };
  addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    // Office programs add an image of the text.
    if (!files.length || (editable(event.target) && event.clipboardData.getData("text/plain"))) return;
    event.preventDefault();
    handle(files);
  });
  for (const type of ["dragenter", "dragover"]) {
    addEventListener(type, (event) => {
      if (!hasFiles(event.dataTransfer) && editable(event.target)) return; // text dropped into a text field
      event.preventDefault(); // otherwise the browser navigates to the file
      if (hasFiles(event.dataTransfer)) showDropArea(true);
    });
  }
  addEventListener("drop", (event) => {
    showDropArea(false);
    const data = event.dataTransfer;
    if (!hasFiles(data) && editable(event.target)) return;
    event.preventDefault();
    const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    handle(data.files, entries.filter((entry) => entry.isDirectory).map(({ name }) => name));
  });
  addEventListener("dragleave", (event) => event.relatedTarget || showDropArea(false));
  // None of these events occurs during a drag.
  for (const type of ["dragend", "pointerdown", "pointermove", "keydown", "blur", "pagehide"]) {
    addEventListener(type, () => showDropArea(false));
  }
}
