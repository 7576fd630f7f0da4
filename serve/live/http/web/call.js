// The WebRTC connection of a session, made anew when the network breaks. It knows no element of any page.

import { cause, userError } from "./causes.js";
import { ask } from "./server.js";

const RECONNECT_MS = 15000; // as long as the server keeps a place for somebody whose network was cut
const RETRY_MS = 1000;
const ANSWER_MS = 5000; // a request into a cut network is not answered at all
const GATHER_MS = 1500; // a browser that finds no more ways to be reached says so late
const NO_WAY = "Sound and picture do not get through to the server: a firewall or another network is between. Its operator can set ice_servers.";

export class Call {
  connection = null;
  ended = false;
  #channel = null;
  #connected = false; // it was, once

  // server: its address; empty: that of the page. sound: whether there is any; without a microphone it is heard all the
  // same. on: {track(track), message(event), lost(), over(message)}, where `over` says why the call cannot go on.
  constructor({ server = "", id, key, microphone = null, sound = true, on }) {
    Object.assign(this, { server, id, key, microphone, sound, on });
  }

  // Throws an error with `left` when the call was ended meanwhile.
  async connect() {
    const { ice_servers } = await this.#asked("GET", "ice_servers");
    if (this.ended) throw userError("", { left: true });
    const connection = new RTCPeerConnection({ iceServers: ice_servers });
    this.connection = connection;
    this.#channel = connection.createDataChannel("events");
    this.#channel.onmessage = ({ data }) => this.connection === connection && this.#receive(JSON.parse(data));
    if (this.microphone) connection.addTransceiver(this.microphone.getAudioTracks()[0], { direction: "sendrecv" });
    else if (this.sound) connection.addTransceiver("audio", { direction: "recvonly" });
    connection.addTransceiver("video", { direction: "recvonly" });
    connection.ontrack = ({ track }) => this.on.track(track);
    connection.onconnectionstatechange = () => {
      if (this.ended || this.connection !== connection) return;
      if (connection.connectionState === "connected") this.#connected = true;
      if (!["failed", "disconnected"].includes(connection.connectionState)) return;
      if (this.#connected) this.#reconnect();
      else this.on.over(NO_WAY);
    };
    await connection.setLocalDescription(await connection.createOffer());
    await gathered(connection);
    const answer = await this.#asked("POST", "offer", { sdp: connection.localDescription.sdp });
    this.key = answer.session_key;
    if (this.ended) {
      this.#leave(); // with the key that holds now
      throw userError("", { left: true });
    }
    await connection.setRemoteDescription({ type: "answer", sdp: answer.sdp });
  }

  // Whether a message could be sent; a picture, as bytes, is left out while another one waits.
  send(message) {
    if (this.ended || this.#channel?.readyState !== "open") return false;
    if (!(message instanceof ArrayBuffer)) this.#channel.send(JSON.stringify(message));
    else if (this.#channel.bufferedAmount > 0) return false;
    else this.#channel.send(message);
    return true;
  }

  // Once; the server hears of it, also when the page goes away.
  end() {
    if (this.ended) return;
    this.#close();
    this.#leave();
  }

  #leave() {
    const headers = { Authorization: `Bearer ${this.key}` };
    fetch(`${this.server}/v1/sessions/${this.id}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
  }

  #close() {
    this.ended = true;
    this.connection?.close();
    this.microphone?.getTracks().forEach((track) => track.stop());
  }

  #receive(event) {
    if (event.type === "ended") this.#close();
    this.on.message(event);
  }

  // Asked again until it is answered: to the same offer the server gives the same answer.
  async #asked(method, what, body) {
    const end = Date.now() + RECONNECT_MS;
    for (;;) {
      try {
        const url = `${this.server}/v1/sessions/${this.id}/${what}`;
        return await ask(method, url, this.key, body, AbortSignal.timeout(ANSWER_MS));
      } catch (error) {
        if (this.ended) throw userError("", { left: true });
        if (error.refused || Date.now() > end) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  // The server's end knows no ICE restart, so a new connection takes the old one's place; the conversation stays.
  async #reconnect() {
    this.on.lost();
    this.connection.close();
    try {
      await this.connect();
    } catch (error) {
      if (!error.left && !this.ended) this.on.over(`The connection was lost. ${cause(error)}`);
    }
  }
}

function gathered(connection) {
  return new Promise((resolve) => {
    const check = () => connection.iceGatheringState === "complete" && resolve();
    connection.addEventListener("icegatheringstatechange", check);
    setTimeout(resolve, GATHER_MS);
    check();
  });
}

// Puts a track in the place of the one of its kind that an element played before, and plays it.
export function show(track, element) {
  const stream = element.srcObject || new MediaStream();
  for (const old of stream.getTracks()) if (old.kind === track.kind) stream.removeTrack(old);
  stream.addTrack(track);
  element.srcObject = stream;
  return element.play();
}
