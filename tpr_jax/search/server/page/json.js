// JSON whose integers keep all their digits.

// Strings are matched first, so that digits within them are left alone.
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

// Parses JSON like `JSON.parse`, but returns integers that a JavaScript number would round, such as ids of 19 digits,
// as strings.
export function parseJson(text) {
  return JSON.parse(text.replace(TOKEN, (token) => (isRounded(token) ? `"${token}"` : token)));
}

const isRounded = (token) => /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token));
