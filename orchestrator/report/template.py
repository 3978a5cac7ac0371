"""The page itself: HTML that needs nothing from outside, for wide and narrow, light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --soft: #f3f4f6;
  --line: #d8dce1; --dim: #5d6670; --bar: #2f7fc1; --good: #1a7f45; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --paper: #16191d;
  --soft: #20252b; --line: #3a424b; --dim: #9aa5b0; --bar: #5aa9e6; --good: #4fc07f;
  --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
p.dim, td.dim, .dim { color: var(--dim); }
.chosen { background: var(--soft); border-left: 4px solid var(--bar); padding: .6rem 1rem;
  margin: 1rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; white-space: nowrap; }
th { border-bottom: 1px solid var(--line); font-weight: 600; }
td.number, th.number { text-align: right; }
svg { width: 100%; height: auto; min-width: 28rem; max-width: 46rem; display: block; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
figure { margin: 0; }
figure img { width: 100%; image-rendering: pixelated; border: 1px solid var(--line); }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.lane { position: relative; height: .8rem; min-width: 8rem; background: var(--soft); }
.lane i { position: absolute; top: 0; bottom: 0; min-width: 2px; background: var(--bar); }
.lane i.failed { background: var(--bad); }
td.grow { width: 100%; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; }
.failed { color: var(--bad); }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ run }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ name }}</h1>
<p class="dim">{{ run }} &middot; {{ state }} &middot; {{ began }}{% if took %} &middot; took {{ took }}{% endif %}</p>
{% for line in chosen %}<div class="chosen">{{ line }}</div>
{% endfor %}
{% if table %}
<h2>Models</h2>
<div class="wide"><table>
<tr>{% for cell in table[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table[1] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for line in notes %}<p class="dim">{{ line }}</p>
{% endfor %}{% endif %}
{% if front %}
<h2>FID and size</h2>
<div class="wide">{{ front }}</div>
{% endif %}
{% if sheets %}
<h2>Samples</h2>
<p class="dim">Models of one image shape and one seed start from the same noise, picture by picture.</p>
<div class="pictures">
{% for sheet in sheets %}<figure><img src="{{ sheet.source }}" alt="samples of {{ sheet.name }}">
<figcaption>{{ sheet.name }}: {{ sheet.told }}</figcaption></figure>
{% endfor %}</div>
{% endif %}
{% if trajectories %}
<h2>From noise to image</h2>
<div class="pictures">
{% for one in trajectories %}<figure><img src="{{ one.source }}" alt="trajectories of {{ one.name }}">
<figcaption>{{ one.name }}: the same noise on the left, the image on the right</figcaption></figure>
{% endfor %}</div>
{% endif %}
{% if parts %}
<h2>Quality by class and part</h2>
<div class="wide"><table>
<tr><th>of</th>{% for name in parts[0] %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{% for row in parts[1] %}<tr>{% for cell in row %}<td{% if not loop.first %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="dim">FID of the samples of each class against its real images; few of them raise it.</p>
{% endif %}
{% for metric, picture in curves %}
<h2>Training: {{ metric }}</h2>
<div class="wide">{{ picture }}</div>
{% endfor %}
<h2>Jobs</h2>
<div class="wide"><table>
<tr><th>job</th><th>kind</th><th>state</th><th>took</th><th></th><th>takes results of</th></tr>
{% for job in jobs %}<tr><td>{{ job.name }}</td><td class="dim">{{ job.kind }}</td>
<td{% if job.state == "failed" %} class="failed"{% endif %}>{{ job.state }}</td><td>{{ job.took }}</td>
<td class="grow"><div class="lane">{% if job.width is not none %}<i class="{{ job.state }}" style="left: {{ job.left }}%; width: {{ job.width }}%"></i>{% endif %}</div></td>
<td class="dim">{{ job.after }}</td></tr>
{% if job.message %}<tr><td></td><td colspan="5" class="failed">{{ job.message }}</td></tr>{% endif %}
{% endfor %}</table></div>
{% for line in remarks %}<p class="dim">{{ line }}</p>
{% endfor %}
<h2>Pipeline and versions</h2>
<div class="wide"><table>
{% for name, value in versions %}<tr><td>{{ name }}</td><td class="dim">{{ value }}</td></tr>
{% endfor %}</table></div>
<details><summary>The pipeline file, every default spelt out</summary>
<pre>{{ pipeline }}</pre></details>
</body>
</html>
"""
