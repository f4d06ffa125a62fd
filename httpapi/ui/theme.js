// Runs before the page is drawn, so that a chosen theme does not flash in.
try {
  const theme = localStorage.getItem("roster-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // without storage the theme is the system's
}
