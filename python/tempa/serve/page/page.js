// The chat page. A turn is a message of the user with its answers; regenerating adds one, and the shown answer
// is what the conversation goes on with. Text enters the page as text only, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const turns = []; // {user, answers: [{text, vote, paired, note}], shown}
let model = "";
let running = null; // AbortController of the answer that is being written

function make(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function headers() {
  const key = at("key").value;
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `status ${response.status}`);
}

function show(error) {
  at("error").textContent = error ? error.message : "";
  at("error").hidden = !error;
}

// Messages before and with a turn's question.
function messagesTo(turn) {
  const system = at("system").value;
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const one of turns) {
    messages.push({ role: "user", content: one.user });
    if (one === turn) break;
    messages.push({ role: "assistant", content: one.answers[one.shown].text });
  }
  return messages;
}

function button(text, title, action, properties = {}) {
  return make("button", { type: "button", textContent: text, title, ariaLabel: title, onclick: action, ...properties });
}

// Drawn, as not every machine has a font with this sign; turned over by the style for a bad answer.
function thumb() {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", "0 0 20 20");
  path.setAttribute("d", "M2 9h4v8H2zM6 9l4-7q2.6 0 2 3l-.6 3H16q2 0 1.6 2l-1.2 5.4q-.4 1.6-2 1.6H6z");
  svg.append(path);
  return svg;
}

function draw() {
  at("turns").replaceChildren(...turns.map(drawTurn));
  at("send").disabled = running !== null;
  at("stop").hidden = running === null;
}

function drawTurn(turn) {
  const answer = turn.answers[turn.shown];
  const isLast = turn === turns.at(-1);
  const move = (by) => () => { turn.shown += by; draw(); };
  const tools = make("div", { className: "tools" });
  if (turn.answers.length > 1) {
    // What was said later follows the shown answer, so only the last turn can change it.
    const fixed = running !== null || !isLast;
    tools.append(
      button("‹", "Earlier answer", move(-1), { disabled: fixed || turn.shown === 0 }),
      `${turn.shown + 1} of ${turn.answers.length}`,
      button("›", "Later answer", move(1), { disabled: fixed || turn.shown === turn.answers.length - 1 }),
    );
  }
  const vote = (value) => () => { rate(turn, answer, value).catch(show); };
  const idle = running === null && answer.text !== "";
  for (const [value, title] of [["up", "Good answer"], ["down", "Bad answer"]]) {
    // An answer that is in a saved pair keeps its vote.
    const disabled = !idle || answer.paired;
    const properties = { disabled, className: value, ariaPressed: String(answer.vote === value) };
    tools.append(button("", title, vote(value), properties));
    tools.lastChild.append(thumb());
  }
  if (isLast) tools.append(button("Regenerate", "Another answer", () => write(turn), { disabled: running !== null }));
  answer.noteNode = make("span", { className: "note", textContent: answer.note });
  tools.append(answer.noteNode);
  answer.node = make("div", { className: "text", textContent: answer.text });
  const question = make("div", { className: "user text", textContent: turn.user });
  return make("section", {}, question, make("div", { className: "assistant" }, answer.node, tools));
}

// A vote makes a pair with each opposite vote on the same messages; the file of `tempa dpo` holds pairs.
async function rate(turn, answer, value) {
  answer.vote = answer.vote === value ? null : value;
  show(null);
  draw();
  if (answer.vote === null) return;
  for (const other of turn.answers) {
    if (!other.vote || other.vote === value || other.text === answer.text || other.context !== answer.context) continue;
    const [chosen, rejected] = value === "up" ? [answer, other] : [other, answer];
    const body = { messages: JSON.parse(answer.context), chosen: chosen.text, rejected: rejected.text };
    const response = await fetch("preferences", { method: "POST", headers: headers(), body: JSON.stringify(body) });
    if (response.status === 404) throw new Error("Votes are not kept: start the server with --preferences FILE.");
    if (!response.ok) throw await failure(response);
    for (const one of [answer, other]) Object.assign(one, { paired: true, note: "pair saved" });
  }
  if (!answer.paired) answer.note = "regenerate and rate another answer to make a pair";
  draw();
}

// The data of server-sent events, parsed; a piece of the network may end anywhere.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function write(turn) {
  const messages = messagesTo(turn);
  const answer = { text: "", vote: null, paired: false, note: "", context: JSON.stringify(messages) };
  turn.answers.push(answer);
  turn.shown = turn.answers.length - 1;
  running = new AbortController();
  show(null);
  draw();
  try {
    const number = (id) => (at(id).value === "" ? null : Number(at(id).value));
    const settings = Object.fromEntries(["temperature", "top_p", "top_k", "max_tokens", "seed"].map((id) => [id, number(id)]));
    const body = JSON.stringify({ model, messages, stream: true, ...settings });
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw await failure(response);
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      answer.text += choice.delta.content ?? "";
      if (choice.finish_reason === "length") answer.note = "ended at the limit of new tokens";
      answer.node.textContent = answer.text;
      scrollTo(0, document.body.scrollHeight);
    }
  } catch (error) {
    if (error.name === "AbortError") answer.note = "stopped";
    else show(error);
  }
  running = null;
  draw();
}

at("form").onsubmit = (event) => {
  event.preventDefault();
  const text = at("input").value;
  if (running || !text.trim()) return;
  at("input").value = "";
  const turn = { user: text, answers: [], shown: 0 };
  turns.push(turn);
  write(turn);
};

at("input").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("form").requestSubmit();
};

at("stop").onclick = () => running?.abort();

at("clear").onclick = () => {
  running?.abort();
  turns.length = 0;
  show(null);
  draw();
};

async function connect() {
  const response = await fetch("v1/models", { headers: headers() });
  if (response.status === 401) at("settings").open = true;
  if (!response.ok) throw await failure(response);
  model = (await response.json()).data[0].id;
  at("model").textContent = model;
  show(null);
}

at("key").value = sessionStorage.getItem("key") ?? "";
at("key").onchange = () => {
  sessionStorage.setItem("key", at("key").value);
  connect().catch(show);
};
connect().catch(show);
