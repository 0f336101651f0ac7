// Before anything is painted: light or dark as it was chosen here; else as the system says, which is the style sheet's matter.
(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen) document.documentElement.dataset.theme = chosen;
  } catch { /* storage may be forbidden: then the system decides */ }
})();
