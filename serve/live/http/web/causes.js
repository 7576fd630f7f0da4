// Why something did not work and what to do about it, by the name that browser and server give it.

const DEVICE = {
  NotFoundError: (device) => `No ${device} was found. Connect one and try again.`,
  NotReadableError: (device) => `The ${device} is in use by another program, or switched off in the system. Free it and try again.`,
  OverconstrainedError: (device) => `This ${device} cannot be used as the page asks. Choose another one in the browser's settings.`,
  AbortError: (device) => `The ${device} did not start. Try again; if that does not help, connect it anew.`,
  SecurityError: (device) => `This page may not use the ${device}: the browser's settings forbid it.`,
};

// A microphone or camera, or an error with a message for a person.
export async function media(device, wishes) {
  if (!navigator.mediaDevices) {
    const local = `http://localhost${location.port ? `:${location.port}` : ""}`;
    throw userError(`Browsers give a ${device} only to pages from https or localhost. Open this page by https, or on the server's own machine as ${local}.`);
  }
  try {
    return await navigator.mediaDevices.getUserMedia(wishes);
  } catch (error) {
    throw userError(error.name === "NotAllowedError" ? await refused(device, error) : (DEVICE[error.name]?.(device) ?? `The ${device} cannot be used: ${error.name}, ${error.message}`));
  }
}

async function refused(device, error) {
  if (/system/i.test(error.message)) return `The system does not give the browser the ${device}. Allow it in the system's privacy settings.`;
  const permission = await navigator.permissions?.query({ name: device }).catch(() => null);
  if (permission?.state === "prompt") return `The question for the ${device} was closed without an answer. Try again and allow it.`;
  return `The ${device} is blocked for this page. Allow it beside the address, and try again.`;
}

// An error whose message is meant for a person as it is.
export function userError(message, more = {}) {
  return Object.assign(new Error(message), { forUser: true, ...more });
}

export function cause(error) {
  if (error.forUser) return error.message;
  if (error.name === "TimeoutError") return "The server does not answer. Try again in a moment.";
  if (error instanceof TypeError && /fetch|network|load/i.test(error.message)) {
    return navigator.onLine ? "The server cannot be reached: it does not run, or the network does not lead to it. Try again." : "This device is offline. Connect it and try again.";
  }
  return `Something on this page went wrong: ${error.name}, ${error.message}`;
}
