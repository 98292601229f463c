// The question that the server asks about the person, and the answers that were given.
import { $, make } from "./dom.js";

const KINDS = { yes: "yes", no: "no", unknown: "not known" };
const NONE = { yes: [], no: [], unknown: [], ask: false };

let answers = NONE; // the phrases by answer, and whether the next question is wanted
let asked = null; // the question that is shown

export const readAnswers = () => answers;

export function fillAnswers({ yes, no, unknown, ask }) {
  answers = { yes, no, unknown, ask };
  const given = Object.entries(KINDS).flatMap(([kind, words]) => answers[kind].map((phrase) => chip(kind, phrase, words)));
  $("answers").replaceChildren(...given);
  $("answers").hidden = !given.length;
  $("ask_me").setAttribute("aria-pressed", ask);
  if (!ask) showQuestion(undefined);
}

// Another person is described: the answers say nothing of this one.
export const clearAnswers = () => fillAnswers({ ...NONE, ask: answers.ask });

// Shows a question; null says that nothing is left to ask, undefined shows nothing.
export function showQuestion(question) {
  asked = question ?? null;
  $("asked").hidden = question === undefined;
  $("asked_text").textContent = asked ? asked.text : "There is nothing more to ask.";
  for (const button of $("asked").querySelectorAll("button")) button.hidden = !asked;
}

// `onChange()` is called when there is an answer more or less, or questions are switched on or off.
export function prepareAnswers(onChange) {
  const change = (next) => {
    fillAnswers({ ...answers, ...next });
    onChange();
  };
  $("ask_me").onclick = () => change({ ask: !answers.ask });
  $("asked").onclick = ({ target }) => {
    const kind = target.dataset.answer;
    if (!kind || !asked) return;
    const { phrase } = asked;
    asked = null; // a second click waits for the next question
    change({ [kind]: [...answers[kind], phrase] });
  };
  $("answers").onclick = ({ target }) => {
    const { kind, phrase } = target.dataset;
    if (!kind) return;
    $("ask_me").focus();
    change({ [kind]: answers[kind].filter((one) => one !== phrase) });
  };
}

function chip(kind, phrase, words) {
  const button = make("button", { type: "button", textContent: `${phrase}: ${words} ×`, title: "Remove this answer" });
  button.setAttribute("aria-label", `Remove the answer: ${phrase}, ${words}`);
  Object.assign(button.dataset, { kind, phrase });
  return button;
}
