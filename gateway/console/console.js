// The console: a key, documents with live progress, questions with streamed answers.
// Text of documents and answers only ever becomes textContent, never markup.
"use strict";

const at = (id) => document.getElementById(id);
const KEY = "citemesh-key";
const FINAL = new Set(["ready", "failed", "quarantined"]);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(id, text, bad = false) {
  at(id).textContent = text;
  at(id).className = bad ? "error" : "";
}

class Problem extends Error {
  constructor(reason, detail, requestId) {
    super(`${detail} (${reason}${requestId ? `, request ${requestId}` : ""})`);
  }
}

async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("UNREACHABLE", "The gateway cannot be reached.", "");
  }
  if (!response.ok) {
    const found = await response.json().catch(() => ({}));
    throw new Problem(found.reason || response.status, found.detail || response.statusText, found.request_id);
  }
  return response;
}

function send(path, method, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return call(path, { method, headers, body: JSON.stringify(body), signal });
}

// Server-sent events of a fetch response: EventSource cannot send an Authorization header.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      waiting += value;
      const blocks = waiting.split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) {
        const event = { name: "message", data: "" };
        for (const line of block.split("\n")) {
          if (line.startsWith("event: ")) event.name = line.slice(7);
          if (line.startsWith("data: ")) event.data += line.slice(6);
        }
        if (event.data) yield { name: event.name, data: JSON.parse(event.data) };
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

// ---- key

function showKey() {
  const key = sessionStorage.getItem(KEY);
  say("key-state", key ? `using ${key.slice(0, 10)}…` : "no key yet");
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = at("key").value.trim();
  if (!key) return;
  sessionStorage.setItem(KEY, key);
  at("key").value = "";
  showKey();
  loadDocuments();
});

at("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  at("documents").replaceChildren();
  at("more").hidden = true;
  showKey();
});

// ---- documents

let nextPage = "";
const watched = new Set();

function stateCell(found) {
  const cell = element("td", found.state);
  if (found.state === "processing") {
    cell.textContent = found.stage || found.state;
    if (found.progress.total > 0) {
      const bar = element("progress");
      bar.max = found.progress.total;
      bar.value = found.progress.done;
      cell.append(" ", bar);
    }
  }
  if (found.error) cell.append(element("div", `${found.error.detail} (${found.error.reason})`, "error"));
  for (const warning of found.warnings) cell.append(element("div", warning, "quiet"));
  return cell;
}

function row(found) {
  const line = element("tr");
  line.id = `document-${found.id}`;
  line.append(element("td", found.title || found.file_name || found.id));
  line.append(stateCell(found));
  line.append(element("td", found.page_count || ""));
  line.append(element("td", found.chunk_count || ""));
  const remove = element("button", "Delete");
  remove.type = "button";
  remove.addEventListener("click", () => deleteDocument(found));
  const cell = element("td");
  cell.append(remove);
  line.append(cell);
  return line;
}

function show(found, first = false) {
  const old = at(`document-${found.id}`);
  if (old) old.replaceWith(row(found));
  else if (first) at("documents").prepend(row(found));
  else at("documents").append(row(found));
  if (!FINAL.has(found.state)) follow(found.id);
}

async function follow(id) {
  if (watched.has(id)) return;
  watched.add(id);
  try {
    const response = await call(`/v1/documents/${encodeURIComponent(id)}/events`);
    for await (const event of eventsOf(response)) {
      if (event.name === "state") {
        const old = at(`document-${event.data.id}`);
        if (old) old.replaceWith(row(event.data));
      }
      if (event.name === "error") throw new Problem(event.data.reason, event.data.detail, event.data.request_id);
    }
  } catch (error) {
    say("documents-state", error.message, true);
  } finally {
    watched.delete(id);
  }
}

async function loadDocuments(more = false) {
  try {
    const token = more ? nextPage : "";
    const response = await call(`/v1/documents?page_size=50&page_token=${encodeURIComponent(token)}`);
    const page = await response.json();
    if (!more) at("documents").replaceChildren();
    page.documents.forEach((found) => show(found));
    nextPage = page.next_page_token;
    at("more").hidden = !nextPage;
    say("documents-state", at("documents").childElementCount ? "" : "No documents yet.");
  } catch (error) {
    say("documents-state", error.message, true);
  }
}

async function deleteDocument(found) {
  if (!window.confirm(`Delete “${found.title || found.id}”?`)) return;
  try {
    await call(`/v1/documents/${encodeURIComponent(found.id)}`, { method: "DELETE" });
    at(`document-${found.id}`)?.remove();
    say("documents-state", "Deleted.");
  } catch (error) {
    say("documents-state", error.message, true);
  }
}

at("upload-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const files = [...at("file").files];
  for (const file of files) {
    say("documents-state", `Uploading ${file.name}…`);
    const form = new FormData();
    // All fields before the file: the gateway then passes it on without holding it.
    form.append("title", "");
    form.append("labels", "{}");
    form.append("allow", "[]");
    form.append("file", file);
    try {
      const headers = { "Idempotency-Key": crypto.randomUUID?.() ?? `console-${Date.now()}-${Math.random()}` };
      const response = await call("/v1/documents", { method: "POST", body: form, headers });
      show(await response.json(), true);
      say("documents-state", `${file.name} is being processed.`);
    } catch (error) {
      say("documents-state", `${file.name}: ${error.message}`, true);
      return;
    }
  }
  at("file").value = "";
});

at("refresh").addEventListener("click", () => loadDocuments());
at("more").addEventListener("click", () => loadDocuments(true));

// ---- answers

let running = null;
let answerId = "";

function citation(found) {
  const item = element("li", undefined, found.supported ? "" : "unsupported");
  item.value = Number(found.marker) || 0;
  const where = found.page ? `page ${found.page}` : found.section;
  const place = where ? `${found.title}, ${where}` : found.title;
  item.append(element("strong", place));
  if (!found.supported) item.append(element("span", " not supported by the source", "error"));
  item.append(element("blockquote", found.quote));
  return item;
}

function finish(done) {
  at("answer-text").textContent = done.answer;
  at("citations").replaceChildren(...done.citations.map(citation));
  const facts = [done.confidence, done.model, `$${done.cost_usd.toFixed(6)}`];
  if (done.cache !== "none") facts.push(`from the ${done.cache} cache`);
  if (done.timings_ms.total) facts.push(`${Math.round(done.timings_ms.total)} ms`);
  if (done.degraded.length) facts.push(`without ${done.degraded.join(", ")}`);
  at("answer-facts").textContent = facts.filter(Boolean).join(" · ");
  answerId = done.answer_id;
  at("feedback").hidden = !answerId;
  say("feedback-state", "");
}

// Offsets count code points, not the UTF-16 units of a JavaScript string.
function retract(text, found) {
  const points = [...text];
  points.splice(found.start, found.end - found.start, ...found.replacement);
  return points.join("");
}

async function ask(question) {
  running = new AbortController();
  at("ask").disabled = true;
  at("stop").disabled = false;
  at("answer").hidden = false;
  at("feedback").hidden = true;
  at("answer-text").textContent = "";
  at("answer-facts").textContent = "";
  at("citations").replaceChildren();
  say("ask-state", "Searching…");
  try {
    const response = await send("/v1/answers", "POST", { question, stream: true }, running.signal);
    let text = "";
    for await (const { name, data } of eventsOf(response)) {
      if (name === "sources") say("ask-state", `Reading ${data.sources.length} passages…`);
      if (name === "delta") text += data.text;
      if (name === "retract") text = retract(text, data);
      if (name === "provider_switched") {
        if (data.restarted) text = "";
        say("ask-state", `${data.to_provider} goes on for ${data.from_provider}…`);
      }
      if (name === "citation") at("citations").append(citation(data));
      if (name === "error") throw new Problem(data.reason, data.detail, data.request_id);
      if (name === "done") { finish(data); say("ask-state", ""); }
      else at("answer-text").textContent = text;
    }
  } catch (error) {
    if (error.name === "AbortError") say("ask-state", "Stopped.");
    else say("ask-state", error.message, true);
  } finally {
    running = null;
    at("ask").disabled = false;
    at("stop").disabled = true;
  }
}

at("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (question && !running) ask(question);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("ask-form").requestSubmit();
  }
});
at("stop").addEventListener("click", () => running?.abort());
for (const button of at("feedback").querySelectorAll("button")) {
  button.addEventListener("click", async () => {
    try {
      await send("/v1/feedback", "POST", { answer_id: answerId, rating: Number(button.dataset.rating) });
      say("feedback-state", "Thank you.");
    } catch (error) {
      say("feedback-state", error.message, true);
    }
  });
}

showKey();
if (sessionStorage.getItem(KEY)) loadDocuments();
