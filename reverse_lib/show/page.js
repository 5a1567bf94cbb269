"use strict";

// What a map does in the browser. All data comes as JSON from `maps.py`; texts are only ever set as text.
const reverseMaps = (() => {
  const UNANSWERED = "#ffffff";
  const INK = "#1d2733";
  const HEAT = {0.3: "#f3a25f", 0.55: "#dd5f3c", 0.8: "#8f1d4f", 1.0: "#35063e"};
  const FEW = 5; // photos below which a country is drawn pale
  const BEND_KM = 300; // a great circle is drawn with a point at least this often
  const ROOMY_PX = 1020; // width from which a card fits between legend and controls; below, page.css hides those

  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const km = (value) => `${Math.round(value).toLocaleString("en")} km`;
  const percent = (share) => `${Math.round(100 * share)} %`;
  const named = (layers) => Object.fromEntries(Object.entries(layers).map(([key, name]) => [key, window[name]]));
  const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().trim();

  function node(tag, className = "", ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  function swatch(colour, className = "") {
    const made = node("i", className);
    if (colour) made.style.setProperty("--colour", colour);
    return made;
  }

  // ---- the card of a photo or place: {title, badge, picture, facts, reward, story}, all but the title optional

  function card(spec) {
    const facts = node("dl", "facts");
    for (const [name, value] of spec.facts) facts.append(node("dt", "", name), node("dd", "", value));
    const head = node("div", "head", node("h4", "", spec.title));
    if (spec.badge) head.append(badge(...spec.badge));
    const beside = node("div", "beside", facts);
    if (spec.reward) beside.append(reward(spec.reward));
    const body = node("div", spec.picture ? "body pictured" : "body", beside);
    if (spec.picture) body.prepend(picture(spec.picture));
    const made = node("div", "card", head, body);
    if (spec.story?.length) made.append(story(spec.story));
    return made;
  }

  function badge(text, colour) {
    const made = node("span", "badge", text);
    made.style.setProperty("--colour", colour);
    return made;
  }

  function picture({image, ratio, note, looks, regions, colours}) {
    if (!image) return node("p", "note", note ?? "no picture on this page");
    const shown = node("img");
    shown.src = image;
    shown.alt = "the photo";
    const frame = node("div", "frame", shown);
    frame.style.aspectRatio = ratio;
    for (const region of regions) frame.append(box(region, colours[1], "region"));
    for (const [turn, ...corners] of looks) frame.append(box(corners, colours[0], "look", turn));
    const key = node("figcaption");
    if (looks.length) key.append(node("span", "", swatch(colours[0], "look"), "looked at, in turn"));
    if (regions.length) key.append(node("span", "", swatch(colours[1], "region"), "tells the place"));
    return node("figure", "", frame, key);
  }

  function box([x1, y1, x2, y2], colour, className, number) {
    const made = node("div", `box ${className}`);
    if (number) made.append(node("b", "", String(number)));
    const place = {left: x1, top: y1, width: x2 - x1, height: y2 - y1};
    for (const [side, value] of Object.entries(place)) made.style[side] = `${value / 10}%`;
    made.style.setProperty("--colour", colour);
    return made;
  }

  function reward(parts) {
    const made = node("div", "reward");
    for (const [name, value] of parts) {
      const bar = node("span", value < 0 ? "bar negative" : "bar");
      bar.style.setProperty("--share", Math.min(1, Math.abs(value)));
      made.append(node("span", "", name), bar, node("span", "number", value.toFixed(2)));
    }
    return made;
  }

  function story(lines) {
    const made = node("div", "story");
    for (const line of lines) {
      const text = line.trimStart();
      const depth = line.length - text.length;
      const shown = node("div", depth ? "" : "turn", text);
      shown.style.paddingLeft = `${depth * 4}px`;
      made.append(shown);
    }
    return made;
  }

  // ---- shapes

  const dot = (at, colour, radius, edge = "#ffffff", weight = 1.5) =>
    L.circleMarker(at, {radius, weight, color: edge, fillColor: colour, fillOpacity: 1});

  // The shortest way over the globe between two places: a line, or two where it crosses the date line.
  function greatCircle(from, to) {
    const radians = Math.PI / 180;
    const [a, b] = [from, to].map(([lat, lon]) => [lat * radians, lon * radians])
      .map(([lat, lon]) => [Math.cos(lat) * Math.cos(lon), Math.cos(lat) * Math.sin(lon), Math.sin(lat)]);
    const angle = Math.acos(Math.min(1, Math.max(-1, a[0] * b[0] + a[1] * b[1] + a[2] * b[2])));
    const steps = Math.max(1, Math.ceil((angle * 6371) / BEND_KM));
    const lines = [[from]];
    for (let i = 1; i <= steps; i += 1) {
      const [p, q] = [Math.sin((1 - i / steps) * angle), Math.sin((i / steps) * angle)];
      const [x, y, z] = a.map((value, axis) => p * value + q * b[axis]);
      const [lat, lon] = i === steps ? to : [Math.atan2(z, Math.hypot(x, y)) / radians, Math.atan2(y, x) / radians];
      const [lat0, lon0] = lines.at(-1).at(-1);
      if (Math.abs(lon - lon0) > 180) {
        const edge = 180 * Math.sign(lon0);
        const crossing = lat0 + ((lat - lat0) * (edge - lon0)) / (lon + 2 * edge - lon0 || 1);
        lines.at(-1).push([crossing, edge]);
        lines.push([[crossing, -edge]]);
      }
      lines.at(-1).push([lat, lon]);
    }
    return lines;
  }

  // Zooms to the points and draws the countries; their land is filled where no street map lies under it.
  function start(map, points) {
    if (points.length) map.fitBounds(points, {padding: [40, 40], maxZoom: 5, animate: false});
    let filled = true;
    map.eachLayer((layer) => { filled &&= !(layer instanceof L.TileLayer); });
    map.createPane("land").style.zIndex = 250;
    map.getPane("land").style.pointerEvents = "none";
    const style = {weight: 0.8, color: filled ? "#b9c2cb" : "#5b6670", fill: filled, fillColor: "#e9ecef", fillOpacity: 1};
    L.geoJSON(read("borders"), {style, interactive: false, renderer: L.canvas({pane: "land"}), pane: "land"}).addTo(map);
    map.attributionControl.setPrefix("Leaflet").addAttribution("Borders: Natural Earth");
  }

  // ---- photos and their answers, one stage at a time

  class Photos {
    constructor(map, data) {
      Object.assign(this, {map, ...data, traced: L.layerGroup().addTo(map)});
      this.stage = this.stages[this.first ?? 0];
      this.pictured = this.photos.some((photo) => photo.image || photo.note);
      map.on("popupclose", () => this.traced.clearLayers());
      start(map, this.stage.rows.flatMap((row) => [this.photo(row).at, row.to].filter(Boolean)));
    }

    colour(row) {
      return row.band === undefined ? UNANSWERED : this.colours[row.band];
    }

    photo(row) {
      return this.photos[row.photo];
    }

    // A dot that opens the photo's card; `shape` gets the row and its colour.
    clickable(row, shape) {
      return shape(row, this.colour(row)).on("click", (event) => this.open(row, event.target.getLatLng()));
    }

    truth(row) {
      const answered = row.to !== undefined;
      const made = (_, colour) => dot(this.photo(row).at, colour, 6.5, answered ? "#ffffff" : INK, answered ? 1.5 : 2);
      return Object.assign(this.clickable(row, made), {band: row.band});
    }

    answer(row) {
      const unknown = row.band === undefined;
      const made = (_, colour) => dot(row.to, unknown ? this.colours[0] : "#ffffff", 4, unknown ? "#ffffff" : colour, 2.5);
      return this.clickable(row, made);
    }

    line(row, weight, opacity) {
      const style = {weight, opacity, color: this.colour(row), smoothFactor: 0.5, interactive: false};
      return L.polyline(greatCircle(this.photo(row).at, row.to), style);
    }

    open(row, at) {
      const size = this.map.getSize();
      const wide = size.x >= ROOMY_PX;
      const options = {
        maxWidth: Math.min(470, size.x - 60),
        minWidth: Math.min(this.pictured ? 440 : 300, size.x - 60),
        maxHeight: size.y - 90,
        autoPanPaddingTopLeft: [wide ? 215 : 10, 15],
        autoPanPaddingBottomRight: [wide ? 275 : 10, 15],
        className: "reverse",
      };
      const shown = L.popup(options).setLatLng(at).setContent(this.card(row)).openOn(this.map);
      this.traced.clearLayers();
      if (row.to && this.photo(row).at) {
        this.traced.addLayer(this.line(row, 6, 0.25)).addLayer(this.line(row, 3, 1)).addLayer(this.answer(row));
        this.traced.eachLayer((layer) => layer.bringToFront());
      }
      return shown;
    }

    card(row) {
      const photo = this.photo(row);
      const colours = this.boxes;
      const facts = [["answered", row.says ?? "nothing readable"], ["taken in", photo.place]];
      if (this.stage.name && this.stages.length > 1) facts.unshift(["stage", this.stage.name]);
      return card({
        title: `Photo ${photo.id}`,
        badge: row.km === undefined ? null : [`${km(row.km)} off`, this.colour(row)],
        picture: this.pictured && {...photo, looks: row.boxes, colours},
        facts,
        reward: row.reward?.map((value, i) => [this.rewards[i], value]),
        story: row.story,
      });
    }
  }

  const layersOfStage = {
    photos(view) {
      const group = L.markerClusterGroup({
        maxClusterRadius: 44,
        animate: false,
        showCoverageOnHover: false,
        spiderLegPolylineOptions: {weight: 1, color: INK, opacity: 0.4},
        iconCreateFunction: (cluster) => donut(cluster.getAllChildMarkers(), view),
      });
      return [group.addLayers(view.stage.rows.map((row) => view.truth(row)))];
    },
    lines(view) {
      const rows = view.stage.rows.filter((row) => row.to);
      const opacity = Math.min(0.7, Math.max(0.2, 300 / rows.length));
      return rows.map((row) => view.line(row, 1.6, opacity));
    },
    answers: (view) => view.stage.rows.filter((row) => row.to).map((row) => view.answer(row)),
    countries(view) {
      const known = view.stage.countries;
      const shapes = view.borders.features.filter(({properties: {iso}}) => iso in known);
      const style = ({properties: {iso}}) => {
        const [, , count, band] = known[iso];
        return {weight: 0.8, color: "#ffffff", fillColor: view.colours[band], fillOpacity: count < FEW ? 0.35 : 0.75};
      };
      return [L.geoJSON(shapes, {style, onEachFeature: (feature, layer) => explain(feature, layer, known)})];
    },
    heat(view) {
      const points = view.stage.rows.map((row) => [...view.photo(row).at, row.lost]).filter(([, , lost]) => lost > 0);
      return [L.heatLayer(points, {radius: 22, blur: 18, minOpacity: 0.4, gradient: HEAT})];
    },
  };

  function explain({properties: {name, iso}}, layer, known) {
    const [median, near, count] = known[iso];
    const text = node("div", "", node("b", "", name), node("br"), `median error ${km(median)}`, node("br"));
    text.append(`${percent(near)} within 25 km`, node("br"), `n = ${count} photo${count === 1 ? "" : "s"}`);
    layer.bindTooltip(text, {sticky: true});
  }

  // A cluster as a ring whose colours have the shares of the error bands.
  function donut(markers, view) {
    const counts = [...view.colours, UNANSWERED].map(() => 0);
    for (const marker of markers) counts[marker.band ?? view.colours.length] += 1;
    let turn = 0;
    const parts = counts.map((count, band) => {
      const from = turn;
      turn += count / markers.length;
      return `${view.colours[band] ?? UNANSWERED} ${from}turn ${turn}turn`;
    });
    const near = (counts[0] + counts[1]) / markers.length;
    const size = Math.round(30 + 9 * Math.log10(markers.length));
    const ring = node("div", "donut", node("span", "", String(markers.length)));
    ring.style.background = `conic-gradient(${parts.join(", ")})`;
    ring.title = `${markers.length} photos, ${percent(near)} within 25 km`;
    return L.divIcon({html: ring, className: "", iconSize: [size, size]});
  }

  function drawErrors(map, {layers, choices, ...data}) {
    const [groups, stages] = [named(layers), choices.map((name) => window[name])];
    const view = new Photos(map, {...data, borders: read("borders")});
    const legend = corner(map, "bottomleft", "legend");
    const refresh = (key) => {
      groups[key].clearLayers();
      if (!map.hasLayer(groups[key])) return;
      for (const layer of layersOfStage[key](view)) groups[key].addLayer(layer);
      if (key === "countries") groups[key].bringToBack();
    };
    const redraw = (event) => {
      if (event?.type === "baselayerchange") view.stage = view.stages[stages.indexOf(event.layer)];
      map.closePopup();
      Object.keys(groups).forEach(refresh);
      map.getContainer().classList.toggle("heated", map.hasLayer(groups.heat));
      legend.replaceChildren(...legendRows(view, (key) => map.hasLayer(groups[key])));
    };
    map.on("baselayerchange overlayadd overlayremove", redraw);
    redraw();
    addSearch(map, view);
    map.attributionControl.addAttribution("Cities: GeoNames (CC BY 4.0)");
  }

  function drawAnswers(map, {layers, ...data}) {
    const {lines, photos, answers} = named(layers);
    const view = new Photos(map, data);
    for (const row of view.stage.rows) {
      if (view.photo(row).at) {
        lines.addLayer(view.line(row, 1.6, 0.7));
        photos.addLayer(view.truth(row));
      }
      answers.addLayer(view.answer(row));
    }
    if (view.stage.rows.length > 1) corner(map, "bottomleft", "legend").append(...legendRows(view, (key) => key === "answers"));
    if (data.opened && view.stage.rows.length) view.open(view.stage.rows[0], view.stage.rows[0].to);
  }

  function drawTwins(map, {layers, groups}) {
    const {lines, dots} = named(layers);
    start(map, groups.flatMap(({places}) => places.map(({at}) => at)));
    const style = {weight: 2, opacity: 0.75, interactive: false};
    for (const {colour, places} of groups) {
      const ways = places.slice(1).map(({at}, i) => greatCircle(places[i].at, at));
      for (const way of ways) lines.addLayer(L.polyline(way, {...style, color: colour}));
      for (const place of places) {
        const show = () => L.popup({className: "reverse"}).setLatLng(place.at).setContent(card(place)).openOn(map);
        dots.addLayer(dot(place.at, colour, places.length > 1 ? 6 : 3).on("click", show));
      }
    }
  }

  // ---- legend and search

  function corner(map, position, className) {
    const made = node("div", `leaflet-control ${className}`);
    L.DomEvent.disableClickPropagation(made);
    L.DomEvent.disableScrollPropagation(made);
    const control = L.control({position});
    control.onAdd = () => made;
    control.addTo(map);
    return made;
  }

  function legendRows(view, isOn) {
    const {rows, name, left_out: leftOut, nowhere} = view.stage;
    const row = (mark, text, count = "") => node("div", "", mark, node("span", "", text), node("em", "", count.toLocaleString("en")));
    const counted = view.labels.map((label, band) =>
      row(swatch(view.colours[band]), label, rows.filter((one) => one.band === band).length));
    const unanswered = rows.filter((one) => !one.to).length;
    const made = [node("b", "", `${name && view.stages.length > 1 ? `${name}: ` : ""}${rows.length.toLocaleString("en")} photos`), ...counted];
    if (unanswered) made.push(row(swatch(UNANSWERED, "hollow"), "no readable answer", unanswered));
    if (isOn("answers")) made.push(row(swatch(INK, "answer"), "where the answer lies"));
    if (isOn("countries")) made.push(row(swatch("#e9ecef", "square"), "no photos here"), row(swatch("", "pale"), `fewer than ${FEW}: pale`));
    if (isOn("countries") && nowhere) made.push(row(swatch("", "none"), "in no country drawn", nowhere));
    if (isOn("heat")) made.push(row(swatch("", "heat"), "accuracy lost"));
    if (leftOut) made.push(row(swatch("", "none"), "search failed, left out", leftOut));
    return made;
  }

  // What the search box knows besides photos: name -> [lat, lon, zoom]; a country lies where its mainland does.
  function knownPlaces({photos, cities, borders}) {
    const rings = ({type, coordinates}) => (type === "Polygon" ? coordinates : coordinates.flat());
    const countries = borders.features.map(({properties, geometry}) => {
      const mainland = rings(geometry).reduce((a, b) => (b.length > a.length ? b : a));
      const {lat, lng} = L.latLngBounds(mainland.map(([lon, lat]) => [lat, lon])).getCenter();
      return [properties.name, [lat, lng, 4]];
    });
    const taken = photos.map(({place, at}) => [place.replace(/ ?\([^(]*$/, ""), [...at, 9]]);
    const large = Object.entries(cities).map(([name, at]) => [name, [...at, 7]]);
    return new Map([...taken, ...large, ...countries].filter(([name]) => name));
  }

  function addSearch(map, view) {
    const field = node("input");
    const list = node("datalist");
    list.id = "places";
    Object.assign(field, {type: "search", placeholder: "Find a place or photo", ariaLabel: "Find a place or photo"});
    field.setAttribute("list", list.id);
    const ids = new Map(view.photos.map((photo, i) => [folded(photo.id), i]));
    const names = knownPlaces(view);
    const places = new Map([...names].map(([name, at]) => [folded(name), {name, at}]));
    const options = [...names.keys(), ...view.photos.map((photo) => photo.id)];
    list.append(...options.map((name) => Object.assign(node("option"), {value: name})));
    const box = corner(map, "topleft", "search");
    box.append(field, list);
    const ring = L.layerGroup().addTo(map);
    const find = () => {
      const wanted = folded(field.value);
      const row = view.stage.rows.find((one) => one.photo === ids.get(wanted));
      const found = places.get(wanted) ?? [...places.entries()].find(([name]) => name.startsWith(wanted))?.[1];
      field.setCustomValidity(!wanted || row || found ? "" : "no place, country or photo of this name on the map");
      if (!field.reportValidity() || !wanted) return;
      ring.clearLayers();
      const [lat, lon, zoom] = row ? [...view.photo(row).at, 6] : found.at;
      map.setView([lat, lon], zoom, {animate: false});
      if (row) return void view.open(row, [lat, lon]);
      const label = node("span", "", found.name);
      const circle = L.circleMarker([lat, lon], {radius: 16, color: INK, weight: 2, fill: false, interactive: false});
      ring.addLayer(circle.bindTooltip(label, {permanent: true, direction: "top", offset: [0, -14]}));
    };
    field.addEventListener("change", find);
    field.addEventListener("input", () => field.setCustomValidity(""));
  }

  return {read, greatCircle, drawErrors, drawAnswers, drawTwins};
})();
