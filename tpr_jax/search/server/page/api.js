// Requests to the server.
import { parseJson } from "./json.js";

// Returns the response. Throws an error with a sentence for the user, or an AbortError if the request was aborted.
export async function request(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The server does not respond: is it still running?");
  }
}

export const readJson = async (response) => parseJson(await response.text());
