"use strict";
const PERIOD_MS = 3000;

function filter(form) {
  const status = form.elements.status.value, words = form.elements.words.value.toLowerCase();
  let shown = 0;
  for (const each of form.nextElementSibling.children) {
    const fits = (!status || each.dataset.status === status) && (!words || each.textContent.toLowerCase().includes(words));
    each.hidden = !fits;
    shown += fits;
  }
  form.querySelector("output").textContent = `${shown} shown`;
}

function openNamed() {
  const named = location.hash && document.getElementById(location.hash.slice(1));
  if (named instanceof HTMLDetailsElement) {
    named.hidden = false;
    named.open = true;
    named.scrollIntoView();
    named.querySelector("summary").focus({preventScroll: true});
  }
}

async function update() {
  try {
    const state = await (await fetch("state", {cache: "no-store"})).text();
    if (state !== document.body.dataset.live) {
      const fresh = new DOMParser().parseFromString(await (await fetch("./", {cache: "no-store"})).text(), "text/html");
      const open = [...document.querySelectorAll("details[open][id]")].map(each => each.id);
      const filters = [...document.querySelectorAll(".filter")].map(form => [form.elements.status.value, form.elements.words.value]);
      const focused = document.activeElement?.closest("details")?.id;
      document.getElementById("main").replaceChildren(...document.adoptNode(fresh.getElementById("main")).childNodes);
      document.body.dataset.live = fresh.body.dataset.live;
      open.forEach(id => { const each = document.getElementById(id); if (each) each.open = true; });
      [...document.querySelectorAll(".filter")].forEach((form, index) => {
        [form.elements.status.value, form.elements.words.value] = filters[index] ?? ["", ""];
        filter(form);
      });
      if (focused) document.getElementById(focused)?.querySelector("summary").focus({preventScroll: true});
    }
  } catch {
    document.querySelector("footer").textContent = "The run that served this page has ended; what is shown is what it last said.";
    return;
  }
  setTimeout(update, PERIOD_MS);
}

document.addEventListener("input", event => { const form = event.target.closest(".filter"); if (form) filter(form); });
document.addEventListener("submit", event => event.preventDefault());
addEventListener("hashchange", openNamed);
openNamed();
if (document.body.dataset.live) setTimeout(update, PERIOD_MS);
