"use strict";
// Follow a run. Everything that models wrote is set as text, never as markup.
(() => {
  const page = document.body.dataset, byId = id => document.getElementById(id);
  const steps = new Map(), working = new Map(), rows = new Map();
  let ended = false, last = "";

  const copy = name => byId(name).content.cloneNode(true).firstElementChild;
  const slot = (node, name) => node.matches(`[data-slot="${name}"]`) ? node : node.querySelector(`[data-slot="${name}"]`);
  const write = (node, name, text) => { const at = slot(node, name); if (at) at.textContent = text; };
  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const money = usd => usd === null || usd === undefined ? "unknown" : usd === 0 ? "$0" : `$${usd.toFixed(6)}`;
  const call = step => JSON.stringify([step.layer, step.stage, step.agent, step.target]);
  const named = step => `${step.layer} ${step.stage} ${step.agent}` +
    (step.target && step.target !== step.agent ? ` \u2192 ${step.target}` : "");

  function layer(number) {
    const parent = byId("layers");
    const known = [...parent.children].find(one => one.dataset.layer === String(number));
    if (known) return known;
    const made = copy("of-layer");
    made.dataset.layer = number;
    made.setAttribute("aria-label", `Layer ${number}`);
    made.querySelector("h2").textContent = byId("status").textContent = `Layer ${number}`;
    parent.insertBefore(made, [...parent.children].find(one => Number(one.dataset.layer) > number) || null);
    return made;
  }

  function agent(number, name) {
    const parent = slot(layer(number), "agents");
    const known = [...parent.children].find(one => one.dataset.agent === name);
    if (known) return known;
    const made = copy("of-agent");
    made.dataset.agent = name;
    write(made, "agent", name);
    return parent.appendChild(made);
  }

  // The place of a step on the page. It is made when the step starts, and filled when it ends.
  function place(step) {
    const key = call(step);
    if (working.has(key)) return working.get(key);
    let made;
    if (step.stage === "propose" || step.stage === "refine") {
      made = copy("of-part");
      write(made, "title", step.stage === "propose" ? "Proposal" : "Refinement");
      slot(agent(step.layer, step.agent), step.stage).append(made);
    } else if (step.stage === "critique") {
      if (!step.target) return null; // a call for several critiques, each of which is a step, too
      const list = slot(agent(step.layer, step.target), "critiques");
      if (!list.children.length) list.append(element("h4", "Critiques of this proposal"));
      made = copy("of-critique");
      write(made, "title", step.agent === step.target ? "itself" : step.agent);
      list.append(made);
    } else {
      const article = copy("of-final");
      made = article.querySelector(".part");
      const titles = {agree: "Comparison", aggregate: "Aggregate", synthesize: "Synthesis", dissent: "Report of dissent"};
      write(made, "title", `${titles[step.stage] || step.stage} by ${step.agent}`);
      slot(layer(step.layer), "finals").append(article);
    }
    made.dataset.status = "working";
    working.set(key, made);
    return made;
  }

  function words(text) { return text.match(/\s+|\S+\s*/g) || []; }

  // The longest common subsequence of words; texts that are too long for it are not compared.
  function difference(before, after) {
    const a = words(before), b = words(after), n = a.length, m = b.length;
    if (n * m > 1e6) return null;
    const table = Array.from({length: n + 1}, () => new Uint32Array(m + 1));
    for (let i = n - 1; i >= 0; i--)
      for (let j = m - 1; j >= 0; j--)
        table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    const pieces = [];
    const add = (kind, word) => {
      const end = pieces[pieces.length - 1];
      if (end && end[0] === kind) end[1] += word; else pieces.push([kind, word]);
    };
    let i = 0, j = 0;
    while (i < n || j < m) {
      if (i < n && j < m && a[i] === b[j]) { add("", a[i++]); j++; }
      else if (j >= m || (i < n && table[i + 1][j] >= table[i][j + 1])) add("del", a[i++]);
      else add("ins", b[j++]);
    }
    return pieces;
  }

  function fill(step) {
    const node = place(step);
    working.delete(call(step)); // another try is another place
    if (!node) return;
    const failure = step.error ? `${step.status}: ${step.error.kind}: ${step.error.message}` : step.status;
    node.dataset.status = step.status;
    write(node, "text", step.status === "ok" ? step.text : failure);
    write(node, "figures", `${step.cached ? "cached" : `${(step.end - step.start).toFixed(1)} s`}, ` +
      `${step.tokens.prompt + step.tokens.completion} tokens, ${step.cost_usd === null ? "price unknown" : money(step.cost_usd)}`);
    if (step.stage === "refine" && step.status === "ok") {
      const own = [...steps.values()].find(other => other.stage === "propose" && other.status === "ok" &&
        other.layer === step.layer && other.agent === step.agent);
      const pieces = own && difference(own.text, step.text);
      if (pieces) slot(node, "text").replaceChildren(...pieces.map(([tag, text]) => tag ? element(tag, text) : text));
    }
    if (step.stage === "synthesize" || step.stage === "agree")
      for (const [name, value] of Object.entries(step.outputs))
        if (typeof value === "boolean") node.append(element("p", `${name}: ${value ? "yes" : "no"}`, "figures"));
    if (step.status === "ok")
      for (const [number, failed] of (step.failures || []).entries())
        node.append(element("p", `failed try ${number + 1}: ${failed.kind}: ${failed.message}`, "figures"));
    for (const prompt of step.prompts || []) {
      const details = element("details", "");
      details.append(element("summary", "prompt"), element("div", prompt, "prompt"));
      node.append(details);
    }
  }

  function bars() {
    const all = [...steps.entries()].filter(([, step]) => step.status !== "skipped");
    const whole = Math.max(...all.map(([, step]) => step.end), 1e-9);
    let total = 0;
    const paid = new Map();
    for (const [key, step] of [...all].sort((x, y) => x[1].end - y[1].end)) {
      total = total === null || step.cost_usd === null ? null : total + step.cost_usd;
      paid.set(key, total);
    }
    for (const [key, step] of all.sort((x, y) => x[1].start - y[1].start)) {
      if (!rows.has(key)) rows.set(key, byId("of-bar").content.querySelector("tr").cloneNode(true));
      const row = rows.get(key), bar = slot(row, "bar");
      write(row, "title", named(step) + (step.status === "ok" ? "" : ` (${step.status})`));
      write(row, "seconds", `${step.start.toFixed(2)}\u2013${step.end.toFixed(2)}`);
      write(row, "dollars", money(step.cost_usd));
      write(row, "total", money(paid.get(key)));
      bar.className = `span ${step.stage}`;
      bar.style.marginLeft = `${100 * step.start / whole}%`;
      bar.style.width = `${Math.max(0.5, 100 * (step.end - step.start) / whole)}%`;
      byId("bars").append(row);
    }
  }

  function progress(note) {
    const all = [...steps.values()], known = all.filter(step => step.cost_usd !== null);
    const calls = all.reduce((sum, step) => sum + step.calls, 0);
    const usd = known.reduce((sum, step) => sum + step.cost_usd, 0);
    const price = known.length === all.length ? money(usd) : `at least ${money(usd)}`;
    const text = `${note || `${working.size} at work`}: ${calls} calls, ${price}`;
    if (text !== last) byId("progress").textContent = last = text;
    if (note) byId("status").textContent = text; // read out, unlike every change of the price
  }

  function finish(trace) {
    ended = true;
    for (const step of trace.steps) take(step);
    for (const node of working.values()) node.dataset.status = "cancelled";
    working.clear();
    const list = element("dl", "");
    for (const [name, value] of Object.entries(trace.outputs[trace.outputs.length - 1] || {}))
      list.append(element("dt", name), element("dd", typeof value === "string" ? value : JSON.stringify(value)));
    byId("answer").replaceChildren(trace.outputs.length ? list : element("p", "No layer was finished.", "missing"));
    agree(trace);
    if (byId("stop")) byId("stop").disabled = true;
    progress(`Ended by ${trace.stopped_by.replaceAll("_", " ")} after ${trace.seconds.toFixed(1)} s`);
  }

  // Mark whose proposal is not that of the largest group, and who gave up its own.
  function agree(trace) {
    const layers = (trace.positions || []).map(one => one.layer);
    const compared = trace.stopped_by === "agreement" ? Math.max(...layers) : 1;
    const own = (trace.positions || []).filter(one => one.layer === compared);
    const size = group => own.filter(one => one.proposal === group).length;
    const first = own.reduce((best, one) => best === null || size(one.proposal) > size(best) ? one.proposal : best, null);
    const known = trace.agreement !== null && trace.agreement !== undefined;
    const unanimous = known && trace.agreement === 1, note = [];
    for (const one of trace.positions || []) {
      const badges = slot(agent(one.layer, one.agent), "badges");
      badges.replaceChildren();
      if (known && !unanimous && one.layer === compared && one.proposal !== first) {
        badges.append(element("span", "dissents", "badge dissents"), " ");
        note.push(element("p", `${one.agent} dissents`));
      }
      if (one.proposal !== null && one.answer !== null && one.proposal !== one.answer)
        badges.append(element("span", "changed its answer", "badge changed"));
    }
    const share = known ? `${Math.round(trace.agreement * own.length)} of ${own.length} agents gave the most common ` +
      "proposal." : "The proposals are not compared.";
    const points = Object.entries(trace.dissent_report || {}).flatMap(([name, all]) => all.map(one =>
      element("p", `${name.replaceAll("_", " ")}: ${one.point} (${one.agents.join(", ")})`)));
    byId("positions").replaceChildren(element("p", share), ...note, ...points);
    byId("dissent").hidden = false;
  }

  function take(step) {
    const key = JSON.stringify([call(step), step.start, step.end]);
    if (steps.has(key)) { // the stream began anew, and so did the step
      const node = working.get(call(step));
      if (node) (node.closest(".final") || node).remove();
      working.delete(call(step));
      return;
    }
    steps.set(key, step);
    fill(step);
  }

  function receive(data) {
    if ("steps" in data) finish(data);
    else if ("status" in data) take(data);
    else place(data);
    bars();
    if (!ended) progress();
  }

  const source = new EventSource(page.events);
  source.onmessage = message => {
    receive(JSON.parse(message.data));
    if (ended) source.close();
  };
  source.onerror = () => {
    if (!ended) progress(source.readyState === EventSource.CLOSED ? "The connection is lost" : "Connecting again");
  };
  if (byId("stop")) byId("stop").addEventListener("click", async event => {
    event.target.disabled = true;
    try {
      const answer = await fetch(page.stop, {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"});
      if (!answer.ok) throw new Error(answer.status);
      if (!ended) progress("Stopping");
    } catch (error) {
      event.target.disabled = false;
      progress(`The run could not be stopped (${error.message})`);
    }
  });
})();
