// The query: conversion from and to the page's address, and to the API's options. Does not use the document.

const DEFAULTS = { text: "", where: "", filters: {}, like: null, weight: 0.5, top_k: 24, group: false, index: "" };

export function fromAddress(search) {
  const parameters = new URLSearchParams(search);
  const number = (name, max) => {
    const value = parseFloat(parameters.get(name));
    return value >= 0 && value <= max ? value : DEFAULTS[name];
  };
  const filters = {};
  for (const [name, value] of parameters) if (name.startsWith("f.")) filters[name.slice(2)] = value;
  return {
    text: parameters.get("q") ?? "",
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
  if (query.text) parameters.set("q", query.text);
  if (query.where) parameters.set("where", query.where);
  for (const [name, value] of Object.entries(query.filters)) if (value) parameters.set("f." + name, value);
  if (query.like !== null) {
    parameters.set("like", query.like);
    parameters.set("index", query.index); // which has that row
  }
  if (query.text && query.like !== null && query.weight !== 0.5) parameters.set("weight", query.weight);
  if (query.top_k !== DEFAULTS.top_k) parameters.set("top_k", query.top_k);
  if (query.group) parameters.set("group", "1");
  const all = parameters.toString();
  return all ? "?" + all : "."; // the page without a query
}

// Returns the API's options. A filter's value is a text, or "least..most" for numbers and times, where either may be
// empty.
export function toOptions(query, columns) {
  const options = { top_k: query.top_k };
  const text = query.text.trim();
  if (text) options.text = text;
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
  const bounds = [least && `${name} >= ${literal(least)}`, most && `${name} <= ${literal(most)}`];
  return bounds.filter(Boolean).join(" and ");
}

export function describe(query, photoName) {
  const parts = [];
  if (query.text.trim()) parts.push(query.text.trim());
  if (photoName) parts.push(photoName);
  const filters = Object.entries(query.filters).filter(([, value]) => value);
  const where = [...filters.map(([name, value]) => `${name}: ${value}`), query.where].filter(Boolean);
  return parts.join(" + ") + (where.length ? ` (${where.join(", ")})` : "");
}

export const isComplete = (query) => Boolean(query.text.trim()) || query.like !== null;
