// Live regions, confirmations and uploads. Pages work without it, except for uploads.
"use strict";

const REFRESH_MS = 5000;

// Every region with `data-live` is replaced by the same region of a fresh copy of this page, unless it is being used.
async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (response.redirected) return location.reload(); // the session is over
      if (response.ok) {
        const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
        document.querySelectorAll("[data-live]").forEach((region) => replace(region, fresh.getElementById(region.id)));
      }
    } catch {
      // The console is restarting or the network is away: the next refresh tries again.
    }
  }
  setTimeout(refresh, REFRESH_MS);
}

function replace(region, fresh) {
  const selection = getSelection();
  const inUse =
    region.contains(document.activeElement) ||
    (!selection.isCollapsed && region.contains(selection.anchorNode)) ||
    region.querySelector("details[open]");
  if (fresh && !inUse && fresh.innerHTML !== region.innerHTML) region.replaceChildren(...fresh.childNodes);
}

if (document.querySelector("[data-live]")) setTimeout(refresh, REFRESH_MS);

document.addEventListener("submit", (event) => {
  const question = event.submitter && event.submitter.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

const form = document.getElementById("upload");
if (form) {
  const files = document.getElementById("files");
  const drop = document.getElementById("drop");
  const queue = [];
  let running = false;

  const add = (chosen) => {
    for (const file of chosen) queue.push([file, form.elements.bucket.value, addRow(file.name)]);
    if (!running) next();
  };
  const next = () => {
    const entry = queue.shift();
    running = entry !== undefined;
    if (running) send(...entry).finally(next);
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  files.addEventListener("change", () => {
    add(files.files);
    files.value = "";
  });
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(event.dataTransfer.files);
  });
}

function addRow(name) {
  const row = document.getElementById("sent").insertRow();
  row.insertCell().textContent = name;
  const progress = row.insertCell().appendChild(document.createElement("progress"));
  progress.max = 1;
  progress.value = 0;
  progress.setAttribute("aria-label", `Upload of ${name}`);
  return { progress, result: row.insertCell() };
}

// fetch() does not report the progress of an upload, so this is an XMLHttpRequest.
function send(file, bucket, { progress, result }) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const path = `${form.dataset.target}${encodeURIComponent(bucket)}?filename=${encodeURIComponent(file.name)}`;
    request.open("PUT", path);
    request.responseType = "json";
    request.upload.onprogress = (event) => (progress.value = event.total ? event.loaded / event.total : 0);
    request.onloadend = () => {
      const answer = request.response || {};
      if (request.status === 200 && answer.url) {
        const link = result.appendChild(document.createElement("a"));
        link.href = answer.url;
        link.textContent = answer.object_id;
      } else {
        result.textContent = answer.error || answer.message || "The upload failed.";
        if (request.status !== 200) result.className = "bad";
      }
      resolve();
    };
    request.send(file);
  });
}
