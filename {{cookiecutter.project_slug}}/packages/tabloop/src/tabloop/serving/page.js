const $ = id => document.getElementById(id);
const element = (tag, text, attributes = {}) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, attributes);
let model;

async function load() {
  model = await (await fetch("model", { headers: headers() })).json();
  const { champion, challenger, challenger_share: share } = model;
  const percent = share => `${+(100 * share).toFixed(1)} %`;
  const about = card => [
    `${card.version} (${card.framework}, ${card.rows.toLocaleString("en")} rows)`,
    ...(card.metrics ? [`AUC ${card.metrics.auc.toFixed(4)} [${card.metrics.auc_low.toFixed(4)}, ${card.metrics.auc_high.toFixed(4)}]`] : []),
    `threshold ${card.threshold.toPrecision(3)}`].join(" · ");
  const rows = [["Champion", about(champion)]];
  if (challenger) rows.push(["Challenger", about(challenger)]);
  if (model.challenger_error) rows.push(["Challenger", model.challenger_error, "bad"]);
  rows.push(["Routing", { off: "the champion answers all", shadow: "the champion answers all; the challenger scores for the log only",
    ab: `${percent(share)} of ${champion.schema.entity ?? "request"}s are answered by the challenger, ${percent(1 - share)} by the champion` }[model.challenger_mode], "", "routing"]);
  const { p50, p95, p99 } = model.latency_ms;
  rows.push(["Latency", p50 === undefined ? "no request yet"
    : `p50 ${p50} ms · p95 ${p95} ms · p99 ${p99} ms (the last 1,000 single rows at most)`, "", "latency"]);
  if (model.log?.error) rows.push(["Prediction log", model.log.error, "bad"]);
  $("served").replaceChildren(...rows.map(([head, text, className = "", id = ""]) => {
    const line = element("tr");
    line.append(element("th", head), element("td", text, { className, id }));
    return line;
  }));
  if (model.challenger_mode === "ab") {
    const bar = element("div", "", { className: "share" }), fill = element("i");
    fill.style.width = percent(1 - share);
    bar.append(fill);
    $("routing").append(bar);
  }
}

// Each field's control, and where its error stands, by the name that the API has for it.
const fields = new Map();

function field(name, note, control) {
  const label = element("label"), error = element("span", "", { className: "bad", id: `error-${fields.size}` });
  control.setAttribute("aria-describedby", error.id);
  label.append(element("span", note ? `${name} (${note})` : name), control, error);
  fields.set(name, { control, error });
  return label;
}

// A level that training did not have may be typed.
function choice(levels, blank, value) {
  const select = element("select"), other = element("option", "another value…");
  select.append(element("option", blank, { value: "" }), ...levels.map(level => element("option", level, { value: level })), other);
  select.value = levels.includes(value) ? value : "";
  select.onchange = () => {
    if (select.selectedOptions[0] !== other) return;
    const found = [...fields.values()].find(({ control }) => control === select), input = text("");
    const swap = (from, to) => { to.setAttribute("aria-describedby", found.error.id); to.name = from.name; found.control = to; from.replaceWith(to); };
    input.onblur = () => { if (!input.value && input.isConnected) { select.value = ""; swap(input, select); } };
    swap(select, input);
    input.focus();
  };
  return select;
}

const text = (value, inputMode = "text") => element("input", "", { value: value ?? "", autocomplete: "off", inputMode });

function control(name, { type, min }, blank) {
  const { categories, ranges, example } = model.champion, value = example?.[name], levels = categories[name];
  if (type === "boolean") { const made = choice(["true", "false"], blank, value === undefined ? "" : String(value)); made.lastChild.remove(); return made; }
  if (levels?.length <= 50) return choice(levels, blank, value);
  const positive = min >= 0 || ranges[name]?.[0] >= 0 && ranges[name][0] !== null;  // a numeric keyboard may have no minus
  const input = text(value, levels || type === "category" || !positive ? "text" : type === "integer" ? "numeric" : "decimal");
  if (!levels) return input;
  const options = element("datalist", "", { id: `levels-${fields.size}` });
  options.append(...levels.map(value => element("option", "", { value })));
  input.setAttribute("list", options.id);
  document.body.append(options);
  return input;
}

function form() {
  const { schema, ranges } = model.champion, key = fields.get("X-API-Key")?.control ?? text("");
  // Smallest and largest value in training; null if the column had none.
  const range = ends => ends?.every(end => end !== null) ? ends.map(end => +end.toPrecision(4)).join(" to ") : "";
  const views = Object.keys(schema.views ?? {}), made = [];
  fields.clear();
  if (model.api_keys) {
    key.id = "key";
    key.onchange = () => load().then(form);  // what only a known client sees, such as the example
    made.push(field("X-API-Key", "one of API_KEYS; kept until this page is closed", key));
  }
  if (schema.entity) made.push(field(schema.entity, "key", text("")));
  for (const [columns, blank] of [...Object.values(schema.views ?? {}).map(view => [view, schema.entity ? "look up" : "missing"]), [schema.request ?? {}, "missing"]])
    for (const [name, column] of Object.entries(columns))
      made.push(field(name, column.type === "category" ? "" : range(ranges[name]), control(name, column, blank)));
  const submit = element("div");
  submit.append(element("button", "Predict", { id: "predict" }));
  $("row").replaceChildren(...made, submit);
  for (const [name, { control }] of fields) control.name = name;
  $("hint").textContent = views.length
    ? `The columns of ${views.join(" and ")} may be left blank: they are then read from the online store by ${schema.entity}.`
    : "A blank field is a missing value.";
}

function headers() {
  const key = fields.get("X-API-Key")?.control.value;
  return { "content-type": "application/json", ...(key ? { "X-API-Key": key } : {}) };
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body) });
  const answer = await response.json();
  if (response.ok) return answer;
  const problems = Array.isArray(answer.detail) ? answer.detail.map(({ loc, msg }) => [loc.slice(1).join("."), msg])
    : [[response.status === 401 ? "X-API-Key" : "", answer.detail]];
  throw Object.assign(new Error(problems.map(([name, reason]) => name ? `${name}: ${reason}` : reason).join("\n")), { problems });
}

// An error of the API stands at its field; what has no field, in the box of the answer.
function refuse(error) {
  const at = (error.problems ?? []).filter(([name]) => fields.has(name));
  for (const [name, reason] of at) {
    const { control, error } = fields.get(name);
    error.textContent = reason;
    control.setAttribute("aria-invalid", "true");
  }
  if (at.length) fields.get(at[0][0]).control.focus();
  $("answer").hidden = at.length > 0 && at.length === error.problems.length;
  $("answer").replaceChildren(element("div", error.message, { className: "bad", id: "error" }));
}

const short = value => typeof value === "number" ? Number(value.toPrecision(6)) : value;

function explained({ probability, base_value, method, contributions, not_known }) {
  const shown = contributions.filter(({ contribution }) => contribution).slice(0, 10), others = contributions.slice(shown.length);
  const bars = shown.map(({ feature, value, looked_up, baseline, contribution, error }) => [
    `${feature} ${short(value) ?? (looked_up ? "looked up" : "missing")}`, `typical: ${short(baseline) ?? "missing"}`, contribution, error]);
  if (others.length) bars.push([others.length === 1 ? "1 other" : `${others.length} others`, others.map(({ feature }) => feature).join(", "),
    others.reduce((sum, { contribution }) => sum + contribution, 0), 0]);
  // The scale of all bars: from the lowest to the highest, nothing included.
  const low = Math.min(0, ...bars.map(bar => bar[2])), width = Math.max(0, ...bars.map(bar => bar[2])) - low || 1;
  const box = element("div", "", { id: "why" });
  for (const fact of not_known) box.append(element("p", `Not known: ${fact}`, { className: "bad" }));
  if (!shown.length) {
    box.append(element("p", "For the model this is a typical row, the one with which each row is compared. Change a value, and predict again."));
    return box;
  }
  box.append(element("p", `A typical row has probability ${base_value.toFixed(4)}. What this row has instead makes it ${probability.toFixed(4)}:`));
  for (const [name, note, contribution, error] of bars) {
    const bar = element("div"), fill = element("i", "", { className: contribution > 0 ? "up" : "" });
    fill.style.left = `${100 * (Math.min(0, contribution) - low) / width}%`;
    fill.style.width = `${100 * Math.abs(contribution) / width}%`;
    bar.append(fill);
    const figure = `${contribution < 0 ? "−" : "+"}${Math.abs(contribution).toFixed(4)}${error ? ` ± ${error.toFixed(4)}` : ""}`;
    box.append(element("span", name, { title: note }), bar, element("b", figure));
  }
  box.append(element("p", `Shapley values, ${method === "exact" ? "exact" : "from a sample, ± half of their 95 % interval"}, in probability.`, { className: "quiet" }));
  return box;
}

$("row").addEventListener("submit", async event => {
  event.preventDefault();
  const { schema, threshold } = model.champion;
  const columns = Object.assign({}, ...Object.values(schema.views ?? {}), schema.request);
  const row = {};
  for (const [name, { control, error }] of fields) {
    const text = control.value;
    error.textContent = "";
    control.removeAttribute("aria-invalid");
    if (text === "" || name === "X-API-Key") continue;
    const type = columns[name]?.type ?? "category";
    const read = { category: text, boolean: text === "true" || (text === "false" ? false : text) }[type];
    row[name] = read ?? (Number.isNaN(+text) ? text : +text);
  }
  const box = $("answer"), began = performance.now();
  try {
    const answer = await post("predict", row), took = performance.now() - began;
    box.hidden = false;
    const bar = element("div", "", { id: "bar" }), mark = element("i", "", { title: "threshold" });
    const fill = element("div"); fill.style.width = `${100 * answer.probability}%`; mark.style.left = `${100 * threshold}%`;
    bar.append(fill, mark);
    const heading = element("b", `${schema.target.name} = ${answer.prediction}`);
    const outcome = element("p", "The outcome was: ");
    for (const label of [1, 0]) {
      const button = element("button", `${schema.target.name} = ${label}`, { className: "plain", type: "button" });
      button.onclick = async () => {
        await post("feedback", { prediction_id: answer.prediction_id, label })
          .then(() => outcome.replaceChildren("Outcome recorded."), error => outcome.replaceChildren(element("span", error.message, { className: "bad" })));
      };
      outcome.append(button, " ");
    }
    const why = element("p", "Computing the reasons …", { className: "quiet" });
    post(model.challenger ? `explain/${answer.variant}` : "explain", row)
      .then(found => why.replaceWith(explained(found)), error => why.replaceWith(element("p", error.message, { className: "bad" })));
    box.replaceChildren(heading, element("div", `probability ${answer.probability.toFixed(4)}`, { id: "probability" }), bar,
      element("div", `${answer.variant} ${answer.model_version} · ${took.toFixed(1)} ms round trip · prediction ${answer.prediction_id}`, { className: "quiet", id: "variant" }), why, outcome);
    await load();
  } catch (error) {
    refuse(error);
  }
});

load().then(form, error => { $("served").replaceChildren(element("td", `The service does not answer: ${error.message}`, { className: "bad" })); });
