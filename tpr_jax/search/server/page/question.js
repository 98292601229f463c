// What is asked: from and to the page's address, and as the API has it. No document here.

const DEFAULTS = { text: "", where: "", filters: {}, like: null, weight: 0.5, top_k: 24, group: false, index: "" };

export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const number = (name, most) => {
    const value = parseFloat(given.get(name));
    return value >= 0 && value <= most ? value : DEFAULTS[name];
  };
  const filters = {};
  for (const [name, value] of given) if (name.startsWith("f.")) filters[name.slice(2)] = value;
  return {
    text: given.get("q") ?? "",
    where: given.get("where") ?? "",
    filters,
    like: number("like", Number.MAX_SAFE_INTEGER),
    weight: number("weight", 1),
    top_k: number("top_k", 200) || DEFAULTS.top_k,
    group: given.has("group"),
    index: given.get("index") ?? "",
  };
}

// `index`, the index's version, goes along where the question names one of its rows.
export function toAddress(question, version) {
  const given = new URLSearchParams();
  if (question.text) given.set("q", question.text);
  if (question.where) given.set("where", question.where);
  for (const [name, value] of Object.entries(question.filters)) if (value) given.set("f." + name, value);
  if (question.like !== null) {
    given.set("like", question.like);
    given.set("index", version);
  }
  if (question.text && question.like !== null && question.weight !== 0.5) given.set("weight", question.weight);
  if (question.top_k !== DEFAULTS.top_k) given.set("top_k", question.top_k);
  if (question.group) given.set("group", "1");
  const all = given.toString();
  return all ? "?" + all : "."; // this page without a question
}

// The API's options. A filter's value is "text"; for numbers and times "least..most", either of them may be empty.
export function toOptions(question, columns) {
  const options = { top_k: question.top_k };
  const text = question.text.trim();
  if (text) options.text = text;
  if (question.weight !== 0.5) options.weight = question.weight;
  if (question.group) options.group = 0.95;
  const parts = columns.map((column) => condition(column, question.filters[column.name] ?? "")).filter(Boolean);
  if (question.where.trim()) parts.push(parts.length ? `(${question.where.trim()})` : question.where.trim());
  if (parts.length) options.where = parts.join(" and ");
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
  const written = column.kind === "time" ? quoted : (text) => text;
  const [least, most] = value.split("..");
  if (most === undefined) return `${name} = ${written(value)}`;
  const ends = [least && `${name} >= ${written(least)}`, most && `${name} <= ${written(most)}`];
  return ends.filter(Boolean).join(" and ");
}

export function inWords(question, pictureName) {
  const parts = [];
  if (question.text.trim()) parts.push(question.text.trim());
  if (pictureName) parts.push(pictureName);
  const filters = Object.entries(question.filters).filter(([, value]) => value);
  const where = [...filters.map(([name, value]) => `${name}: ${value}`), question.where].filter(Boolean);
  return parts.join(" + ") + (where.length ? ` (${where.join(", ")})` : "");
}

export const isAsked = (question) => Boolean(question.text.trim()) || question.like !== null;
