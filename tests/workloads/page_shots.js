// What page_shots.sh runs: node page_shots.js PAGE OUT CHROMIUM. Exit status 1 if something overlaps.
const { chromium } = require('playwright-core');

const [page, out, executablePath] = process.argv.slice(2);
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

// Runs in the page: everything that overlaps or sticks out.
function troubles() {
  const found = [];
  const boxes = (svg, selector) => [...svg.querySelectorAll(selector)].map((e) => ({
    name: e.textContent.trim().slice(0, 40) || selector, box: e.getBoundingClientRect() }));
  const overlap = (a, b) => a.left < b.right - .5 && b.left < a.right - .5 && a.top < b.bottom - .5 && b.top < a.bottom - .5;
  const drawn = [...document.querySelectorAll('svg.plot')].filter((svg) => svg.getBoundingClientRect().width > 20);
  let labels = 0;
  for (const svg of drawn) {
    const around = svg.getBoundingClientRect();
    const texts = boxes(svg, 'text');
    const marks = boxes(svg, '.point .mark');
    labels += svg.querySelectorAll('text.label').length;
    texts.forEach((a, i) => {
      for (const b of texts.slice(i + 1)) if (overlap(a.box, b.box)) found.push(`'${a.name}' overlaps '${b.name}'`);
      for (const b of marks) if (overlap(a.box, b.box)) found.push(`'${a.name}' covers a marker`);
      const inside = a.box.left >= around.left - 1 && a.box.right <= around.right + 1 && a.box.top >= around.top - 1
        && a.box.bottom <= around.bottom + 1;
      if (!inside) found.push(`'${a.name}' leaves its plot`);
    });
    const size = parseFloat(getComputedStyle(svg).fontSize) * around.width / svg.viewBox.baseVal.width;
    if (size < 11) found.push(`text of ${size.toFixed(1)} pixels`);
  }
  if (document.documentElement.tagName !== 'svg' && document.documentElement.scrollWidth > innerWidth) {
    found.push(`the page is ${document.documentElement.scrollWidth} pixels wide in a window of ${innerWidth}`);
  }
  return { plots: drawn.length, labels, found };
}

(async () => {
  const browser = await chromium.launch({ executablePath, args });
  let bad = 0;
  for (const width of [1280, 800, 390]) {
    for (const colorScheme of ['light', 'dark']) {
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, deviceScaleFactor: width < 800 ? 2 : 1 });
      const tab = await context.newPage();
      const requests = [];
      tab.on('request', (request) => requests.push(request.url()));
      await tab.goto('file://' + page);
      const { plots, labels, found } = await tab.evaluate(troubles);
      if (requests.length !== 1) found.push(`asks for ${requests.join(' ')}`);
      if (labels === 0) found.push('no labels');
      console.log(`${width} ${colorScheme}: ${plots} plots, ${labels} labels, ${found.length} troubles`);
      found.forEach((trouble) => console.log(`  ${trouble}`));
      bad += found.length;
      await tab.screenshot({ path: `${out}/${width}-${colorScheme}.png`, fullPage: true });
      await context.close();
    }
  }
  await browser.close();
  process.exit(bad ? 1 : 0);
})();
