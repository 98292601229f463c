// Requests to the server.
import { parseJson } from "./json.js";

export const NO_SERVER = "The server does not respond: is it still running?";

// Returns the response. Throws an error with a sentence for the user, or an AbortError if the request was aborted.
export async function request(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(NO_SERVER);
  }
}

export const readJson = async (response) => parseJson(await response.text());
