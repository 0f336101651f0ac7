// The little that pages do by themselves. Each of them works without it.
"use strict";

const ready = (work) => (document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", work) : work());

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches("[data-theme-toggle]")) {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* not kept */ }
    document.dispatchEvent(new Event("themechange"));
  } else if (button.matches("[data-menu]")) {
    const open = document.body.classList.toggle("menu-open");
    button.setAttribute("aria-expanded", String(open));
    if (open) document.querySelector("#nav a")?.focus();
  } else if (button.matches("[data-copy]")) {
    navigator.clipboard?.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    button.textContent = button.dataset.done;
  }
});

// The menu of a phone closes as people expect it to, and the keyboard is where it was.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("menu-open")) return;
  document.body.classList.remove("menu-open");
  const button = document.querySelector("[data-menu]");
  button.setAttribute("aria-expanded", "false");
  button.focus();
});

// A choice that needs no button beside it.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

// A form that moves something is sent once. The server sees to it, too: a second one has the same key.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-once]")) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "1";
  event.target.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => document.querySelectorAll("[data-sent]").forEach((form) => {
  delete form.dataset.sent;
  form.removeAttribute("aria-busy");
}));

// The live view: rows of counters, each told by the stream as it changes.
ready(() => {
  const live = document.querySelector("[data-live]");
  if (!live) return;
  const locale = document.documentElement.lang === "en" ? "en-GB" : document.documentElement.lang;
  const number = new Intl.NumberFormat(locale);
  const time = new Intl.DateTimeFormat(locale, { timeStyle: "medium", timeZone: "UTC" });
  const state = document.getElementById("live-state");
  const log = document.getElementById("live-log");
  const before = new Map();
  const source = new EventSource(live.dataset.live);
  const say = (text, kind) => { state.textContent = text; state.className = `badge ${kind}`; };
  source.addEventListener("open", () => say(state.dataset.open, "active"));
  source.addEventListener("error", () => {
    say(state.dataset.lost, "overdue");
    if (source.readyState === EventSource.CLOSED) location.reload(); // signed out: the page leads to where one signs in
  });
  source.addEventListener("counters", (event) => {
    const told = JSON.parse(event.data);
    for (const each of told.subscriptions) {
      const row = document.getElementById(`s-${each.subscription_id}`);
      if (!row) continue;
      for (const kind of ["requests", "tokens"]) {
        const cell = row.querySelector(`[data-${kind}]`);
        cell.textContent = number.format(each[kind].used);
        const bar = row.querySelector(`[data-bar-${kind}]`);
        if (bar && each[kind].quota) bar.value = Math.min(each[kind].used / each[kind].quota, 1);
      }
      const last = before.get(each.subscription_id);
      if (last && each.requests.used !== last.requests) {
        row.classList.remove("changed");
        void row.offsetWidth; // the animation begins anew
        row.classList.add("changed");
        const item = document.createElement("li");
        const signed = (n) => (n < 0 ? "−" : "+") + number.format(Math.abs(n));
        item.textContent = `${time.format(new Date(told.as_of))} · ${row.dataset.name} · ${signed(each.requests.used - last.requests)} ${log.dataset.requests}, ${signed(each.tokens.used - last.tokens)} ${log.dataset.tokens}`;
        log.prepend(item);
        while (log.children.length > 20) log.lastChild.remove();
      }
      before.set(each.subscription_id, { requests: each.requests.used, tokens: each.tokens.used });
    }
  });
  addEventListener("pagehide", () => source.close());
});
