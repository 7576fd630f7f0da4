// A talking character on any page, by one line in it:
// <script src="https://HOST/widget.js" data-key="pub_..." data-avatar="noa"></script>
// Further attributes: data-place="inline", data-theme="light" or "dark", data-accent="#b75a12".
{
  const script = document.currentScript ?? document.querySelector('script[data-key][src*="widget.js"]');
  import(new URL("widget/element.js", script.src))
    .then(({ embed }) => embed(script))
    .catch((error) => console.error(`The talking character cannot be loaded from ${new URL(script.src).origin}:`, error));
}
