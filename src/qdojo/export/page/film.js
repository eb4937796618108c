// Recorded episodes as a film strip: a frame, the Q-values and the choice of every step.
"use strict";

class Film {
  constructor(film) {
    this.film = film;
    this.episodes = film.episodes.map((episode) => {
      const image = new Image();
      image.addEventListener("load", () => redraw());
      if (episode.frames) image.src = episode.frames;
      return { ...episode, image, q: weightsOf(episode.q), observations: weightsOf(episode.observations) };
    });
    this.choose(0);
  }

  parts() {
    return this.film.parts;
  }

  rate() {
    return this.film.rate;
  }

  branch() {
    return this.film.branch;
  }

  list(select) {
    const chosen = this.episodes.indexOf(this.episode);
    select.replaceChildren(...this.episodes.map(({ which, score }, i) => {
      const text = t("episode_name", { which: t(which), score: scoreText(score) });
      return Object.assign(element("option", "", text), { value: i });
    }));
    select.value = chosen;
  }

  choose(number) {
    this.episode = this.episodes[number];
    const { length } = this.episode, size = this.film.actions.length;
    this.history = Array.from({ length }, (_, i) => ({ q: this.episode.q.subarray(i * size, (i + 1) * size) }));
    $("scrub").max = this.episode.length - 1;
    this.seek(0);
  }

  restart() {
    this.seek(0);
  }

  advance() {
    this.seek(this.at + 1);
  }

  seek(at) {
    const { episode } = this, width = this.film.parts.length;
    this.at = Math.max(0, Math.min(at, episode.length - 1));
    this.thought = this.history[this.at];
    this.observation = episode.observations.subarray(this.at * width, (this.at + 1) * width);
    this.steps = episode.steps[this.at];
    this.score = episode.returns[this.at];
    this.over = this.at === episode.length - 1 ? (episode.cut ? "limit" : "ended") : null;
    $("scrub").value = this.at;
  }

  /** The actions that were taken here, one of each branch. */
  chosen() {
    const { branch, actions } = this.film, own = this.episode.actions[this.at];
    return new Set(own.map((action, i) => i * branch + action));
  }

  draw(pen, width, height) {
    const { image, columns } = this.episode, { width: wide, height: tall } = this.film;
    if (!image.complete || !image.naturalWidth) return;
    const scale = Math.min(width / wide, height / tall), [w, h] = [wide * scale, tall * scale];
    pen.imageSmoothingEnabled = scale < 3;
    const [x, y] = [(this.at % columns) * wide, Math.floor(this.at / columns) * tall];
    pen.drawImage(image, x, y, wide, tall, (width - w) / 2, (height - h) / 2, w, h);
  }
}
