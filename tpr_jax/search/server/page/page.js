// The page: reads the query from its fields or its address, calls the API, and shows the results.
import { $, make } from "./dom.js";
import { listenForFiles, shorten, uploadError } from "./files.js";
import { fillFilters, makeFilters, readFilters } from "./filters.js";
import { parseJson } from "./json.js";
import { addToHistory, clearHistory, showHistory } from "./past.js";
import { describe, fromAddress, isComplete, toAddress, toOptions } from "./question.js";
import { handleKey, photoUrl, prepare, showResults } from "./results.js";

const NO_SERVER = "The server does not respond: is it still running?";

let about = { columns: [], version: "", max_upload: 0 };
let upload = null; // a File
let like = null; // a row of the index
let pending = null; // the AbortController of the current search

function readQuery() {
  return {
    text: $("text").value,
    where: $("where").value,
    filters: readFilters(about.columns),
    like,
    weight: Number($("weight").value),
    top_k: Number($("top_k").value),
    group: $("group").checked,
  };
}

function showQuery(query) {
  $("text").value = query.text;
  $("where").value = query.where;
  $("weight").value = query.weight;
  $("group").checked = query.group;
  if (![...$("top_k").options].some((option) => Number(option.value) === query.top_k)) {
    $("top_k").append(make("option", { textContent: query.top_k }));
  }
  $("top_k").value = query.top_k;
  fillFilters(about.columns, query.filters);
  if (query.where || Object.values(query.filters).some(Boolean)) $("filters").open = true;
  setPhoto(null, query.like);
}

function setPhoto(file, row) {
  if ($("shown").src.startsWith("blob:")) URL.revokeObjectURL($("shown").src);
  upload = file;
  like = row;
  $("picture").hidden = !file && row === null;
  if (file) $("shown").src = URL.createObjectURL(file);
  else if (row !== null) $("shown").src = photoUrl(row, "small");
  else $("shown").removeAttribute("src");
  $("shown").hidden = !file && row === null;
  $("named").textContent = file ? shorten(file.name) || "pasted photo" : row !== null ? "like this photo" : "";
  $("named").title = file?.name ?? "";
  updateBalance();
}

// Few browsers draw HEIC and TIFF, which the server reads: the name alone stands for such a photo.
$("shown").onerror = () => ($("shown").hidden = true);

const updateBalance = () => ($("balance").hidden = $("picture").hidden || !$("text").value.trim());

async function search({ remember = true } = {}) {
  const query = readQuery();
  const photoName = upload ? shorten(upload.name) || "a photo" : like !== null ? "like a photo" : "";
  fail("");
  pending?.abort();
  if (!about.version) return fail("The page could not reach the server: reload it.");
  if (!isComplete(query) && !upload) {
    $("results").classList.remove("old");
    say("Describe a person, or choose a photo.");
    $("text").focus();
    return;
  }
  const controller = (pending = new AbortController());
  $("results").classList.add("old");
  say("Searching…");
  const error = upload ? await uploadError(upload, about.max_upload) : "";
  if (controller.signal.aborted) return;
  if (error) {
    finish([]);
    fail(error);
    return;
  }
  if (remember && !upload) {
    const address = toAddress(query, about.version);
    if (location.search !== new URL(address, location).search) history.pushState(null, "", address);
    addToHistory({ address, words: describe(query, photoName) });
  }
  document.title = describe(query, photoName);
  try {
    const answer = await send(query, controller.signal);
    finish(answer.results);
    report(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    finish([]);
    fail(error.message);
  }
}

function finish(results) {
  showResults(results);
  say("");
  $("link").hidden = true;
  $("results").classList.remove("old");
}

async function send(query, signal) {
  const options = toOptions(query, about.columns);
  let address = "api/search";
  let body = JSON.stringify(like === null ? options : { ...options, like });
  let type = "application/json";
  if (upload) {
    address += "/photo?" + new URLSearchParams(options);
    body = upload;
    type = "application/octet-stream";
  }
  let response;
  try {
    response = await fetch(address, { method: "POST", body, headers: { "Content-Type": type }, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(NO_SERVER);
  }
  const answer = await readJson(response).catch((error) => {
    if (error.name === "AbortError") throw error; // a newer search was started
    return { detail: `The server sent an invalid response (status ${response.status}).` };
  });
  if (!answer.results) throw new Error(answer.detail);
  return answer;
}

function report(answer) {
  const matching = answer.matching === answer.count ? "" : ` of ${answer.matching.toLocaleString()} that match the filters`;
  const took = (answer.encode_ms + answer.search_ms).toFixed(0);
  const shown = answer.results.length
    ? `${answer.results.length} photos${matching}, ${took} ms.`
    : "No photo matches the filters.";
  say([shown, ...answer.notes.map((text) => `Note: ${text}.`)].join(" "));
  $("link").hidden = Boolean(upload);
}

const say = (text) => ($("status").textContent = text);

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
  if (text) $("error").scrollIntoView({ block: "nearest" });
}

// Keeps the current results.
function rejectFile(message) {
  $("large").close();
  fail(message);
}

async function searchByFile(file, others) {
  $("large").close();
  setPhoto(file, null);
  await search();
  if (others && upload === file && $("error").hidden) {
    say(`${$("status").textContent} Note: only one of the ${others + 1} files is used: ${shorten(file.name)}.`);
  }
}

function removePhoto() {
  setPhoto(null, null);
  $("text").focus();
  if (isComplete(readQuery())) return search();
  pending?.abort();
  finish([]);
  fail("");
}

function moreLike(row) {
  $("text").value = "";
  setPhoto(null, row);
  scrollTo({ top: 0 });
  search();
}

function searchAgain() {
  if (isComplete(readQuery()) || upload) search();
}

function searchFromAddress() {
  const query = fromAddress(location.search);
  showQuery(query);
  showResults([]);
  say("");
  fail("");
  if (!isComplete(query)) return;
  search({ remember: false });
  if (query.like !== null && query.index !== about.version) {
    fail("The index has changed since this link was made: it may refer to another photo.");
  }
}

async function copyLink() {
  const link = new URL(toAddress(readQuery(), about.version), location).href;
  try {
    await navigator.clipboard.writeText(link);
    $("link").textContent = "Copied";
    setTimeout(() => ($("link").textContent = "Copy link"), 1500);
  } catch {
    prompt("The link to this search:", link);
  }
}

function listen() {
  $("ask").onsubmit = (event) => (event.preventDefault(), search());
  $("text").oninput = updateBalance;
  $("shown").onerror = () => ($("shown").hidden = true); // a TIFF, which browsers do not show, or not a photo
  $("drop").onclick = removePhoto;
  for (const id of ["weight", "top_k", "group", "fields", "where"]) $(id).onchange = searchAgain;
  $("link").onclick = copyLink;
  $("forget").onclick = clearHistory;
  $("history").onclick = (event) => {
    if (!event.target.href || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", event.target.href);
    searchFromAddress();
  };
  addEventListener("popstate", searchFromAddress);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || handleKey(event)) return;
    if (event.key === "/" && !event.target.matches("input, select")) {
      event.preventDefault();
      $("text").select();
    }
  });
  listenForFiles(searchByFile, rejectFile);
}

async function start() {
  showHistory();
  listen();
  try {
    about = await fetchAbout();
  } catch (error) {
    $("about").textContent = "";
    fail(`${error.message} Reload this page.`);
    return;
  }
  $("about").textContent = `${about.count.toLocaleString()} photos, model ${about.model}`;
  prepare(about.version, moreLike);
  makeFilters(about.columns);
  $("examples").replaceChildren(
    ...about.examples.map((text) => {
      const button = make("button", { type: "button", textContent: text });
      button.onclick = () => (($("text").value = text), setPhoto(null, null), search());
      return button;
    }),
  );
  searchFromAddress();
}

const readJson = async (response) => parseJson(await response.text());

async function fetchAbout() {
  const response = await fetch("api/index").catch(() => {
    throw new Error(NO_SERVER);
  });
  const answer = await readJson(response).catch(() => ({}));
  if (!response.ok) throw new Error(`The server answered ${response.status}: ${answer.detail ?? "no reason given"}.`);
  return answer;
}

start();
