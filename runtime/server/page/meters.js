"use strict";
// What the server says of itself: whether it is there, its model, its memory.

const bytes = (value) =>
  value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB` : `${(value / 1e6).toFixed(1)} MB`;

function setPhase(phase) {
  for (const item of $("phases").children) {
    const now = item.dataset.phase === phase;
    item.classList.toggle("now", now);
    if (now) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
}

// Prometheus' text, as far as this server writes it: name{label="value"} number.
function parseMetrics(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const found = line.match(/^([a-z_]+)(?:\{[a-z]+="([a-z_-]*)"\})? (\S+)$/);
    if (found) values.set(found[2] ? `${found[1]}:${found[2]}` : found[1], Number(found[3]));
  }
  return values;
}

async function updateMeters() {
  try {
    const response = await fetch("metrics", { headers: headers() });
    if (!response.ok) throw new Error();
    const values = parseMetrics(await response.text());
    $("memory").textContent = bytes(values.get("process_resident_memory_bytes") || 0);
    if (values.has("edgec_state_bytes")) $("state").textContent = bytes(values.get("edgec_state_bytes"));
    const parts = [];
    let alive = 0;
    for (const [name, value] of values) {
      if (name.startsWith("edgec_sequences:")) alive += value;
    }
    parts.push(`${alive} alive`);
    if (values.get("edgec_queued_requests")) parts.push(`${values.get("edgec_queued_requests")} waiting`);
    $("sequences").textContent = parts.join(", ");
  } catch {
    for (const id of ["memory", "state", "sequences"]) $(id).textContent = "–";
  }
}

async function updateStatus() {
  const status = $("status");
  try {
    const ready = (await fetch("health")).ok;
    status.className = ready ? "chip ready" : "chip";
    status.textContent = ready ? "ready" : "loading";
    if (ready && !$("model").textContent) {
      const models = await fetch("v1/models", { headers: headers() });
      if (models.ok) {
        const name = (await models.json()).data[0].id;
        $("model").textContent = name;
        document.title = `${name} – edgec`;
      }
    }
  } catch {
    status.className = "chip bad";
    status.textContent = "offline";
  }
}

async function poll() {
  if (!document.hidden) await Promise.all([updateStatus(), updateMeters()]);
  setTimeout(poll, running ? 1000 : 3000);
}
