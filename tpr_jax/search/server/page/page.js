// The page: reads the question from its fields or its address, asks the API, has shown what was found.
import { $, make } from "./dom.js";
import { listenForFiles, problem, short } from "./files.js";
import { fillFields, makeFields, readFields } from "./filters.js";
import { forget, note, showPast } from "./past.js";
import { fromAddress, inWords, isAsked, toAddress, toOptions } from "./question.js";
import { key, list, photo, prepare } from "./results.js";

const GONE = "The server does not answer: is it still running?";

let about = { columns: [], version: "", max_upload: 0 };
let upload = null; // a File
let like = null; // a row of the index
let asking = null;

function question() {
  return {
    text: $("text").value,
    where: $("where").value,
    filters: readFields(about.columns),
    like,
    weight: Number($("weight").value),
    top_k: Number($("top_k").value),
    group: $("group").checked,
  };
}

function show(asked) {
  $("text").value = asked.text;
  $("where").value = asked.where;
  $("weight").value = asked.weight;
  $("group").checked = asked.group;
  if (![...$("top_k").options].some((option) => Number(option.value) === asked.top_k)) {
    $("top_k").append(make("option", { textContent: asked.top_k }));
  }
  $("top_k").value = asked.top_k;
  fillFields(about.columns, asked.filters);
  if (asked.where || Object.values(asked.filters).some(Boolean)) $("filters").open = true;
  setPicture(null, asked.like);
}

function setPicture(file, row) {
  if ($("shown").src.startsWith("blob:")) URL.revokeObjectURL($("shown").src);
  upload = file;
  like = row;
  $("picture").hidden = !file && row === null;
  if (file) $("shown").src = URL.createObjectURL(file);
  else if (row !== null) $("shown").src = photo(row, "small");
  else $("shown").removeAttribute("src");
  $("shown").hidden = !file && row === null;
  $("named").textContent = file ? short(file.name) || "pasted photo" : row !== null ? "like this photo" : "";
  $("named").title = file?.name ?? "";
  weigh();
}

const weigh = () => ($("balance").hidden = $("picture").hidden || !$("text").value.trim());

async function ask({ remember = true } = {}) {
  const asked = question();
  const pictured = upload ? short(upload.name) || "a photo" : like !== null ? "like a photo" : "";
  fail("");
  asking?.abort();
  if (!about.version) return fail("The page has not heard from the server: load it again.");
  if (!isAsked(asked) && !upload) {
    $("results").classList.remove("old");
    say("Describe a person, or give a photo.");
    $("text").focus();
    return;
  }
  const mine = (asking = new AbortController());
  $("results").classList.add("old");
  say("Searching…");
  const why = upload ? await problem(upload, about.max_upload) : "";
  if (mine.signal.aborted) return;
  if (why) {
    answered([]);
    fail(why);
    return;
  }
  if (remember && !upload) {
    const address = toAddress(asked, about.version);
    if (location.search !== new URL(address, location).search) history.pushState(null, "", address);
    note({ address, words: inWords(asked, pictured) });
  }
  document.title = inWords(asked, pictured);
  try {
    const answer = await send(asked, mine.signal);
    answered(answer.results);
    report(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    answered([]);
    fail(error.message);
  }
}

function answered(results) {
  list(results);
  say("");
  $("link").hidden = true;
  $("results").classList.remove("old");
}

async function send(asked, signal) {
  const options = toOptions(asked, about.columns);
  let address = "api/search";
  let body = JSON.stringify(like === null ? options : { ...options, like });
  let type = "application/json";
  if (upload) {
    address += "/photo?" + new URLSearchParams(options);
    body = upload;
    type = "application/octet-stream";
  }
  let reply;
  try {
    reply = await fetch(address, { method: "POST", body, headers: { "Content-Type": type }, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE);
  }
  const answer = await reply.json().catch((error) => {
    if (error.name === "AbortError") throw error; // a newer question came while this one's answer did
    return { detail: `The server answered ${reply.status}, and not as it should.` };
  });
  if (!answer.results) throw new Error(answer.detail);
  return answer;
}

function report(answer) {
  const among = answer.matching === answer.count ? "" : ` of ${answer.matching.toLocaleString()} that the filters leave`;
  const took = (answer.encode_ms + answer.search_ms).toFixed(0);
  const shown = answer.results.length
    ? `${answer.results.length} photos${among}, ${took} ms.`
    : "The filters leave no photo.";
  say([shown, ...answer.notes.map((text) => `Note: ${text}.`)].join(" "));
  $("link").hidden = Boolean(upload);
}

const say = (text) => ($("status").textContent = text);

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
  if (text) $("error").scrollIntoView({ block: "nearest" });
}

// What was shown before stays: nothing else is asked.
function refuse(why) {
  $("large").close();
  fail(why);
}

async function take(file, others) {
  $("large").close();
  setPicture(file, null);
  await ask();
  if (others && upload === file && $("error").hidden) {
    say(`${$("status").textContent} Note: one photo is searched with, of ${others + 1} files: ${short(file.name)}.`);
  }
}

function remove() {
  setPicture(null, null);
  $("text").focus();
  if (isAsked(question())) return ask();
  asking?.abort();
  answered([]);
  fail("");
}

function moreLike(row) {
  $("text").value = "";
  setPicture(null, row);
  scrollTo({ top: 0 });
  ask();
}

function askAgain() {
  if (isAsked(question()) || upload) ask();
}

function fromLink() {
  const asked = fromAddress(location.search);
  show(asked);
  list([]);
  say("");
  fail("");
  if (!isAsked(asked)) return;
  ask({ remember: false });
  if (asked.like !== null && asked.index !== about.version) {
    fail("The index is another one than when this link was made: its photo may be another one.");
  }
}

async function copyLink() {
  const link = new URL(toAddress(question(), about.version), location).href;
  try {
    await navigator.clipboard.writeText(link);
    $("link").textContent = "Copied";
    setTimeout(() => ($("link").textContent = "Copy link"), 1500);
  } catch {
    prompt("The link to this search:", link);
  }
}

function listen() {
  $("ask").onsubmit = (event) => (event.preventDefault(), ask());
  $("text").oninput = weigh;
  $("shown").onerror = () => ($("shown").hidden = true); // TIFF, which browsers do not show, or no photo at all
  $("drop").onclick = remove;
  for (const id of ["weight", "top_k", "group", "fields", "where"]) $(id).onchange = askAgain;
  $("link").onclick = copyLink;
  $("forget").onclick = forget;
  $("history").onclick = (event) => {
    if (!event.target.href || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", event.target.href);
    fromLink();
  };
  addEventListener("popstate", fromLink);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || key(event)) return;
    if (event.key === "/" && !event.target.matches("input, select")) {
      event.preventDefault();
      $("text").select();
    }
  });
  listenForFiles(take, refuse);
}

async function begin() {
  showPast();
  listen();
  try {
    about = await describe();
  } catch (error) {
    $("about").textContent = "";
    fail(`${error.message} Load this page again.`);
    return;
  }
  $("about").textContent = `${about.count.toLocaleString()} photos, read by ${about.model}`;
  prepare(about.version, moreLike);
  makeFields(about.columns);
  $("examples").replaceChildren(
    ...about.examples.map((text) => {
      const button = make("button", { type: "button", textContent: text });
      button.onclick = () => (($("text").value = text), setPicture(null, null), ask());
      return button;
    }),
  );
  fromLink();
}

async function describe() {
  const reply = await fetch("api/index").catch(() => {
    throw new Error(GONE);
  });
  const told = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(`The server answered ${reply.status}: ${told.detail ?? "it does not say why"}.`);
  return told;
}

begin();
