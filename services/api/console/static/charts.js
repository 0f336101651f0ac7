// Draws tables: <div data-chart="ID OF A TABLE">. The table stays what is read; the drawing is beside it.
"use strict";

(() => {
  const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const read = (table) => {
    const names = [...table.tHead.rows[0].cells].slice(1).filter((cell) => !("skip" in cell.dataset)).map((cell) => cell.textContent.trim());
    const rows = [...table.tBodies[0].rows].sort((a, b) => a.cells[0].dataset.value - b.cells[0].dataset.value);
    const columns = [rows.map((row) => Number(row.cells[0].dataset.value))];
    names.forEach((_, index) => columns.push(rows.map((row) => Number(row.cells[index + 1].dataset.value ?? 0))));
    return { names, columns };
  };

  const stacked = (columns) => {
    const sums = columns[0].map(() => 0);
    const drawn = columns.slice(1).map((values) => values.map((value, i) => (sums[i] += value)));
    return [columns[0], ...drawn.reverse()]; // the highest is drawn first, the others over it
  };

  const draw = (place) => {
    const table = document.getElementById(place.dataset.chart);
    place.replaceChildren();
    if (!table || !table.tBodies[0].rows.length) return;
    const { names, columns } = read(table);
    const bars = place.dataset.kind !== "line";
    const data = bars ? stacked(columns) : columns;
    const order = names.map((_, i) => (bars ? names.length - 1 - i : i));
    const grid = { stroke: style("--line"), width: 1 };
    const locale = document.documentElement.lang;
    const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 });
    const daily = columns[0].length < 2 || columns[0][1] - columns[0][0] >= 86400;
    const day = new Intl.DateTimeFormat(locale, daily ? { day: "numeric", month: "short", timeZone: "UTC" } : { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
    const step = columns[0].length > 1 ? Math.min(...columns[0].slice(1).map((x, i) => x - columns[0][i])) : 86400;
    const axis = { stroke: style("--muted"), grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    new uPlot({
      width: place.clientWidth,
      height: place.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
      scales: { x: { range: () => [columns[0][0] - step * 0.6, columns[0].at(-1) + step * 0.6] }, y: { range: (_, min, max) => [Math.min(min, 0), max > 0 ? max * 1.08 : 1] } },
      axes: [
        { ...axis, grid: { show: false }, values: (_, splits) => splits.map((x) => day.format(new Date(x * 1000))) },
        { ...axis, size: 56, values: (_, splits) => splits.map((y) => compact.format(y)) },
      ],
      series: [{}, ...order.map((i) => {
        const colour = style(COLOURS[i % COLOURS.length]);
        return bars
          ? { label: names[i], stroke: colour, fill: colour, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.72, 48], radius: 0.12 }) }
          : { label: names[i], stroke: colour, width: 2, points: { show: columns[0].length < 40, size: 5, fill: colour } };
      })],
    }, data, place);
    if (names.length > 1) {
      const legend = document.createElement("ul");
      legend.className = "legend";
      legend.setAttribute("aria-hidden", "true");
      names.forEach((name, i) => {
        const item = document.createElement("li");
        const mark = document.createElement("i");
        mark.className = `mark m${(i % COLOURS.length) + 1}`;
        item.append(mark, name);
        legend.append(item);
      });
      place.after(legend);
      place.dataset.legend = "1";
    }
  };

  const drawAll = (root = document) => root.querySelectorAll("[data-chart]").forEach((place) => {
    if (place.dataset.legend) { place.nextElementSibling?.remove(); delete place.dataset.legend; }
    draw(place);
  });
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", () => drawAll()) : drawAll();
  document.addEventListener("htmx:afterSettle", () => drawAll());
  document.addEventListener("themechange", () => drawAll());
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); });
})();
