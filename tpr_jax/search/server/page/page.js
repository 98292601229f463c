// The page: reads the query from its fields or its address, calls the API, and shows the results.
import { clearAnswers, fillAnswers, prepareAnswers, readAnswers, showQuestion } from "./answers.js";
import { readJson, request } from "./api.js";
import { fillDescriptions, prepareDescriptions, readTexts, readWithout } from "./descriptions.js";
import { $, make } from "./dom.js";
import { listenForFiles, shorten, uploadError } from "./files.js";
import { fillFilters, makeFilters, readFilters } from "./filters.js";
import { addToHistory, clearHistory, showHistory } from "./past.js";
import { describe, fromAddress, isComplete, isDescribed, namesRows, toAddress, toOptions } from "./question.js";
import { areOld, focusFirst, handleKey, photoUrl, prepare, showMarks, showResults, useColumns } from "./results.js";
import { offerScenes } from "./scene.js";

const POLL = 10_000; // ms between looks at whether the index has changed

let about = { columns: [], version: "", max_upload: 0 };
let upload = null; // a File
let like = null; // a row of the index
let marks = { right: [], wrong: [] }; // rows of photos that do and do not show the person
let usedMarks = JSON.stringify(marks); // those of the last search
let rowsIndex = ""; // the version of the index that has these rows
let described = null; // the first description of the last search
let searched = ""; // the fields of the last search
let pending = null; // the AbortController of the current search
let starting = true; // until the server has described the index, or failed to
let askedEarly = false; // whether somebody searched meanwhile

function readQuery() {
  return {
    text: $("text").value,
    texts: readTexts(),
    without: readWithout(),
    ...marks,
    ...readAnswers(),
    where: $("where").value,
    filters: readFilters(about.columns),
    like,
    index: rowsIndex,
    weight: Number($("weight").value),
    top_k: Number($("top_k").value),
    group: $("group").checked,
  };
}

function showQuery(query) {
  $("text").value = query.text;
  fillDescriptions(query.texts, query.without);
  $("where").value = query.where;
  $("weight").value = query.weight;
  $("group").checked = query.group;
  if (![...$("top_k").options].some((option) => Number(option.value) === query.top_k)) {
    $("top_k").append(make("option", { textContent: query.top_k }));
  }
  $("top_k").value = query.top_k;
  fillFilters(about.columns, query.filters);
  if (query.where || Object.values(query.filters).some(Boolean)) $("filters").open = true;
  fillAnswers(query);
  setMarks({ right: query.right, wrong: query.wrong }, query.index);
  setPhoto(null, query.like, query.index);
}

function setMarks(next, index = rowsIndex) {
  marks = { right: next.right, wrong: next.wrong }; // in this order, see `usedMarks`
  rowsIndex = index || about.version;
  showMarks(marks);
  describeMarks();
}

function describeMarks() {
  const counts = ["right", "wrong"].filter((kind) => marks[kind].length).map((kind) => `${marks[kind].length} ${kind}`);
  const used = JSON.stringify(marks) === usedMarks;
  $("marks").hidden = !counts.length;
  $("marked").textContent = counts.length ? `Marked: ${counts.join(", ")}${used ? ", counted in this search" : ""}.` : "";
  $("use_marks").hidden = used;
}

// Marks a photo of the results of some version of the index, or takes the mark away.
function mark(row, kind, version) {
  const other = kind === "right" ? "wrong" : "right";
  const had = marks[kind].includes(row);
  const without = (rows) => rows.filter((one) => one !== row);
  setMarks({ [kind]: had ? without(marks[kind]) : [...marks[kind], row], [other]: without(marks[other]) }, version);
}

const clearMarks = () => setMarks({ right: [], wrong: [] });

// Another person is described: what was marked or answered for the one before says nothing of this one.
function forgetPerson() {
  clearMarks();
  clearAnswers();
}

function setPhoto(file, row, index = "") {
  if ($("shown").src.startsWith("blob:")) URL.revokeObjectURL($("shown").src);
  upload = file;
  like = row;
  rowsIndex = index || about.version;
  $("picture").hidden = !file && row === null;
  if (file) $("shown").src = URL.createObjectURL(file);
  else if (row !== null) $("shown").src = photoUrl(row, "small", rowsIndex);
  else $("shown").removeAttribute("src");
  $("shown").hidden = !file && row === null;
  $("named").textContent = file ? shorten(file.name) || "pasted photo" : row !== null ? "like this photo" : "";
  $("named").title = file?.name ?? "";
  updateBalance();
}

// Few browsers draw HEIC and TIFF, which the server reads: the name alone stands for such a photo, or for what is none.
$("shown").onerror = () => ($("shown").hidden = true);

const updateBalance = () => ($("balance").hidden = $("picture").hidden || !isDescribed(readQuery()));

async function search({ remember = true } = {}) {
  if (described !== null && described !== $("text").value.trim()) forgetPerson();
  described = $("text").value.trim();
  const query = readQuery();
  const photoName = upload ? shorten(upload.name) || "a photo" : like !== null ? "like a photo" : "";
  fail("");
  if (remember) $("changed").textContent = "";
  pending?.abort();
  if (starting) {
    askedEarly = true;
    say("Searching…");
    return;
  }
  if (!about.version) return fail("The page could not reach the server: reload it.");
  if (!isComplete(query) && !upload) {
    $("results").classList.remove("old");
    say("Describe a person, or choose a photo.");
    $("text").focus();
    return;
  }
  searched = fieldsText();
  countFilters(query);
  usedMarks = JSON.stringify(marks);
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
    const address = toAddress(query);
    if (location.search !== new URL(address, location).search) history.pushState(null, "", address);
    addToHistory({ address, words: describe(query, photoName) });
  }
  document.title = describe(query, photoName);
  try {
    const answer = await send(query, controller.signal);
    if (answer.version !== about.version) useIndex(await fetchAbout());
    if (controller.signal.aborted) return;
    const hasNewMarks = JSON.stringify(marks) !== usedMarks; // made while the server searched
    if (hasNewMarks && rowsIndex !== answer.version) return search({ remember: false }); // with their rows of that index
    if (like !== null) like = answer.like;
    const counted = { right: answer.right ?? [], wrong: answer.wrong ?? [] };
    usedMarks = JSON.stringify(counted);
    setMarks(hasNewMarks ? marks : counted, answer.version);
    finish(answer.results, answer.version);
    showQuestion(query.ask ? answer.question : undefined);
    report(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    finish([]);
    fail(error.message);
  }
}

function countFilters({ where, filters }) {
  const count = [where.trim(), ...Object.values(filters)].filter(Boolean).length;
  $("active").textContent = count ? ` (${count})` : "";
}

function finish(results, version) {
  showResults(results, version);
  say("");
  $("link").hidden = true;
  $("ask_me").hidden = true;
  showQuestion(undefined);
  $("results").classList.remove("old");
}

async function send(query, signal) {
  const options = toOptions(query, about.columns);
  let address = "api/search";
  if (namesRows(query)) options.version = rowsIndex;
  let body = JSON.stringify(like === null ? options : { ...options, like });
  let type = "application/json";
  if (upload) {
    const pairs = Object.entries(options).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
    address += "/photo?" + new URLSearchParams(pairs);
    body = upload;
    type = "application/octet-stream";
  }
  const response = await request(address, { method: "POST", body, headers: { "Content-Type": type }, signal });
  const answer = await readJson(response).catch((error) => {
    if (error.name === "AbortError") throw error; // a newer search was started
    return { detail: `The server sent an invalid response (status ${response.status}).` };
  });
  if (!answer.results) throw new Error(answer.detail);
  return answer;
}

function report(answer) {
  const took = (answer.encode_ms + answer.search_ms).toFixed(0);
  const shown = answer.results.length ? `${howMany(answer)}, ${took} ms.` : "No photo matches the filters.";
  say([shown, ...answer.notes.map((text) => `Note: ${text}.`)].join(" "));
  $("link").hidden = Boolean(upload);
  $("ask_me").hidden = !answer.matching;
}

function howMany({ results, count, matching }) {
  const found = results.reduce((sum, result) => sum + 1 + result.group.length, 0);
  const groups = found > results.length ? ` in ${results.length} groups` : "";
  const all = `${matching.toLocaleString("en")} ${matching === 1 ? "photo" : "photos"}`;
  const condition = matching === count ? "" : ` that ${matching === 1 ? "matches" : "match"} the filters`;
  const part = found < matching ? `Best ${found.toLocaleString("en")} of ` : matching > 1 ? "All " : "";
  return part + all + condition + groups;
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
  forgetPerson();
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

function moreLike(row, version) {
  $("text").value = "";
  fillDescriptions([], "");
  forgetPerson();
  setPhoto(null, row, version);
  scrollTo({ top: 0 });
  search();
}

function searchAgain() {
  if (isComplete(readQuery()) || upload) search();
}

function searchFromAddress() {
  const query = fromAddress(location.search);
  described = null; // the marks belong to this address
  showQuery(query);
  showResults([]);
  say("");
  fail("");
  if (!isComplete(query)) return;
  search({ remember: false });
}

// Describes the index, and if it is a newer one, says so.
function useIndex(next) {
  const number = (count) => count.toLocaleString("en");
  if (about.version && about.version !== next.version) {
    const counts = next.count === about.count ? "" : ` from ${number(about.count)} to ${number(next.count)} photos`;
    $("changed").textContent = `The index has changed${counts}.`;
  }
  if (haveChanged(next.columns)) {
    const filters = readFilters(about.columns);
    makeFilters(next.columns);
    fillFilters(next.columns, filters);
  }
  about = next;
  offerScenes(about.scenes);
  $("about").textContent = `${number(about.count)} photos, model: ${about.model}`;
  useColumns(about.columns);
}

const haveChanged = (columns) => JSON.stringify(columns) !== JSON.stringify(about.columns);

// Searches again if the index has changed, unless somebody looks at a photo or edits the query.
async function followIndex() {
  if (document.hidden || $("large").open || !about.version) return;
  const next = await fetchAbout().catch(() => about); // the next search says that the server has stopped
  if (next.version === about.version && !areOld(next.version)) return;
  if ($("large").open || (haveChanged(next.columns) && $("fields").contains(document.activeElement))) return;
  useIndex(next);
  const isAsked = isComplete(readQuery()) || upload;
  if (isAsked && fieldsText() === searched) await search({ remember: false }); // not for a text half typed
}

const fieldsText = () => JSON.stringify({ ...readQuery(), like: null, right: [], wrong: [], index: "" });

// Restricts the search to a camera, or to all of them if it is the one already.
function chooseCamera({ name }, value) {
  const filters = readFilters(about.columns);
  fillFilters(about.columns, { ...filters, [name]: filters[name] === value ? "" : value });
  $("filters").open = true;
  search();
}

async function copyLink() {
  const link = new URL(toAddress(readQuery()), location).href;
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
  $("use_marks").onclick = () => search();
  $("clear_marks").onclick = () => {
    const searchWithout = usedMarks !== JSON.stringify({ right: [], wrong: [] });
    clearMarks();
    if (searchWithout) searchAgain();
    else $("results").focus();
  };
  prepareDescriptions(searchAgain);
  prepareAnswers(searchAgain);
  $("drop").onclick = removePhoto;
  for (const id of ["weight", "top_k", "group", "fields", "where"]) $(id).onchange = searchAgain;
  $("link").onclick = copyLink;
  $("skip").onclick = focusFirst;
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
    if (event.key === "/" && (isWholeText(event.target) || !event.target.matches("input, select"))) {
      event.preventDefault();
      $("text").select();
    }
    if (event.key === "ArrowDown" && event.target.matches("input.text")) {
      event.preventDefault();
      focusFirst();
    }
  });
  setInterval(followIndex, POLL);
  addEventListener("visibilitychange", followIndex);
  listenForFiles(searchByFile, rejectFile);
}

// Whether the text has the focus and is empty or selected as a whole: a slash would be all of it, which nobody means.
const isWholeText = (field) =>
  field === $("text") && field.selectionStart === 0 && field.selectionEnd === field.value.length;

async function start() {
  showHistory();
  listen();
  prepare(moreLike, { camera: chooseCamera, mark });
  try {
    useIndex(await fetchAbout());
  } catch (error) {
    $("about").textContent = "";
    say("");
    fail(`${error.message} Reload this page.`);
    return;
  } finally {
    starting = false;
  }
  $("examples").replaceChildren(
    ...about.examples.map((text) => {
      const button = make("button", { type: "button", textContent: text });
      button.onclick = () => {
        $("text").value = text;
        fillDescriptions([], "");
        setPhoto(null, null);
        search();
      };
      return button;
    }),
  );
  rowsIndex ||= about.version;
  if (askedEarly) search();
  // What was typed meanwhile stays, unless the address has a query.
  else if (!isComplete(readQuery()) || isComplete(fromAddress(location.search))) searchFromAddress();
}

async function fetchAbout() {
  const response = await request("api/index");
  const answer = await readJson(response).catch(() => ({}));
  if (!response.ok) throw new Error(`The server answered ${response.status}: ${answer.detail ?? "no reason given"}.`);
  return answer;
}

start();
