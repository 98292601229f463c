// Two helpers that every part of the page uses.

export const $ = (id) => document.getElementById(id);

export function make(tag, settings = {}, ...children) {
  const node = Object.assign(document.createElement(tag), settings);
  node.append(...children);
  return node;
}
