// The token: pasted, or handed over in the fragment of the address, which never
// leaves the browser. It lives in this tab only.

const key = "tallystick.token";

export function token() {
  return sessionStorage.getItem(key) ?? "";
}

// claims reads what a token says, for display only: the server verifies it.
export function claims(raw = token()) {
  try {
    const part = raw.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const found = JSON.parse(atob(part));
    return { principal: String(found.sub), expires: Number(found.exp) * 1000 };
  } catch {
    return null;
  }
}

// set keeps a token, or throws what is wrong with it.
export function set(raw) {
  raw = raw.trim().replace(/^Bearer\s+/i, "");
  if (raw.length > 2048 || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(raw) || !claims(raw)) {
    throw new Error("That is not a token: three parts of letters and digits, separated by dots.");
  }
  sessionStorage.setItem(key, raw);
}

export function clear() {
  sessionStorage.removeItem(key);
}

// takeFromAddress moves a token from the address into this tab, and takes it
// out of the address bar and the history.
export function takeFromAddress() {
  const found = location.hash.match(/^#token=(.+)$/);
  if (!found) return;
  history.replaceState(null, "", `${location.pathname}#/`);
  try {
    set(decodeURIComponent(found[1]));
  } catch {
    clear();
  }
}
