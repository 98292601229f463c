// The query: conversion from and to the page's address, and to the API's options. Does not use the document.

const DEFAULTS = { like: null, weight: 0.5, top_k: 24 };
const ANSWERS = ["yes", "no", "unknown"]; // to questions about the person

export function fromAddress(search) {
  const parameters = new URLSearchParams(search);
  const number = (name, max) => {
    const value = parseFloat(parameters.get(name));
    return value >= 0 && value <= max ? value : DEFAULTS[name];
  };
  const rows = (name) => parameters.getAll(name).map(Number).filter(Number.isSafeInteger);
  const [text = "", ...texts] = parameters.getAll("q");
  const filters = {};
  for (const [name, value] of parameters) if (name.startsWith("f.")) filters[name.slice(2)] = value;
  return {
    text,
    texts: texts.filter(Boolean),
    without: parameters.get("not") ?? "",
    right: rows("right"),
    wrong: rows("wrong"),
    yes: parameters.getAll("yes"),
    no: parameters.getAll("no"),
    unknown: parameters.getAll("unknown"),
    ask: parameters.has("ask"),
    where: parameters.get("where") ?? "",
    filters,
    like: number("like", Number.MAX_SAFE_INTEGER),
    weight: number("weight", 1),
    top_k: number("top_k", 200) || DEFAULTS.top_k,
    group: parameters.has("group"),
    index: parameters.get("index") ?? "",
  };
}

export function toAddress(query) {
  const parameters = new URLSearchParams();
  for (const text of [query.text, ...query.texts]) if (text || query.texts.length) parameters.append("q", text);
  if (query.without) parameters.set("not", query.without);
  if (query.where) parameters.set("where", query.where);
  for (const [name, value] of Object.entries(query.filters)) if (value) parameters.set("f." + name, value);
  if (query.like !== null) {
    parameters.set("like", query.like);
  }
  for (const kind of ["right", "wrong"]) for (const row of query[kind]) parameters.append(kind, row);
  for (const kind of ANSWERS) for (const phrase of query[kind]) parameters.append(kind, phrase);
  if (query.ask) parameters.set("ask", "1");
  if (namesRows(query)) parameters.set("index", query.index); // which has these rows
  if (isDescribed(query) && query.like !== null && query.weight !== 0.5) parameters.set("weight", query.weight);
  if (query.top_k !== DEFAULTS.top_k) parameters.set("top_k", query.top_k);
  if (query.group) parameters.set("group", "1");
  const all = parameters.toString();
  return all ? "?" + all : "."; // the page without a query
}

// Returns the API's options. A filter's value is a text, or "least..most" for numbers and times, where either may be
// empty.
export function toOptions(query, columns) {
  const options = { top_k: query.top_k };
  const texts = [query.text, ...query.texts].map((text) => text.trim()).filter(Boolean);
  if (texts.length) options.text = texts.shift();
  if (texts.length) options.texts = texts;
  if (query.without.trim()) options.without = [query.without.trim()];
  for (const kind of ["right", "wrong", ...ANSWERS]) if (query[kind].length) options[kind] = query[kind];
  if (query.ask) options.ask = true;
  if (query.weight !== 0.5) options.weight = query.weight;
  if (query.group) options.group = 0.95;
  const conditions = columns.map((column) => condition(column, query.filters[column.name] ?? "")).filter(Boolean);
  if (query.where.trim()) conditions.push(conditions.length ? `(${query.where.trim()})` : query.where.trim());
  if (conditions.length) options.where = conditions.join(" and ");
  return options;
}

export function condition(column, value) {
  const name = "`" + column.name + "`";
  const quoted = (text) => "'" + text.replaceAll("'", "''") + "'";
  if (!value) return "";
  if (column.kind === "flag") return `${name} = ${value}`;
  if (column.kind === "text") {
    return column.values ? `${name} = ${quoted(value)}` : `${name} like ${quoted("%" + value + "%")}`;
  }
  const literal = column.kind === "time" ? quoted : (text) => text;
  const [least, most] = value.split("..");
  if (most === undefined) return `${name} = ${literal(value)}`;
  const bounds = [least && `${name} >= ${literal(least)}`, most && upTo(name, column, most, literal)];
  return bounds.filter(Boolean).join(" and ");
}

// The fields of the page have whole seconds: a second includes the times within it.
function upTo(name, { kind, resolution }, most, literal) {
  const end = kind === "time" && resolution === "fraction" && !/\.\d/.test(most) ? Date.parse(`${most}Z`) : NaN;
  if (Number.isNaN(end)) return `${name} <= ${literal(most)}`;
  return `${name} < ${literal(new Date(end + 1000).toISOString().slice(0, 19))}`;
}

export function describe(query, photoName) {
  const parts = [query.text, ...query.texts].map((text) => text.trim()).filter(Boolean);
  if (photoName) parts.push(photoName);
  const filters = Object.entries(query.filters).filter(([, value]) => value);
  const where = [...filters.map(([name, value]) => `${name}: ${value}`), query.where].filter(Boolean);
  const marks = ["right", "wrong"].filter((kind) => query[kind].length).map((kind) => `${query[kind].length} ${kind}`);
  const answers = [...query.yes, ...query.no.map((phrase) => `not ${phrase}`)];
  const not = query.without.trim() ? ` − ${query.without.trim()}` : "";
  return [...parts, ...answers, ...marks].join(" + ") + not + (where.length ? ` (${where.join(", ")})` : "");
}

export const isDescribed = (query) => [query.text, ...query.texts].some((text) => text.trim());

export const isComplete = (query) => isDescribed(query) || query.like !== null || query.right.length > 0;

export const namesRows = ({ like, right, wrong }) => like !== null || right.length + wrong.length > 0;
