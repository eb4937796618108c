// Every text of the page in English and Korean.
"use strict";

const STRINGS = {
  en: {
    title: "{env}: an agent that plays", subtitle: "Trained with deep Q-learning, preset {preset}. It thinks in this page: no server, no network.",
    film_subtitle: "Trained with deep Q-learning, preset {preset}. Recorded episodes with what it thought at every step.",
    pause: "Pause", play: "Play", step: "Step", restart: "Restart", seed: "Seed", speed: "Speed", times: "{n}×",
    limit: "Stop at {n} steps", push_left: "Push left", push_right: "Push right",
    who: "Who acts?", agent: "The agent", you: "You", hint_agent: "Push it with the arrow keys, the buttons, or by dragging in the picture. The agent answers.",
    hint_you: "Choose the action with the keys or the buttons. The bars show what the agent would do.",
    hint_take: "Press a button, or the key on it, to take over: as long as you press, your action is taken.",
    thinks: "What it thinks", q: "Q-value: the return that it expects", illegal: "illegal", margin: "Best ahead of second by {n}",
    margin_note: "the bars show {low} to {high}", trace: "Which action is better, the last 150 steps", trace_film: "Which action is better, the whole episode", trace_note: "Q-value minus the mean of all actions.", pushed_note: "A red line marks a push.", taken_note: "A red line marks an action of yours.",
    sees: "What it sees", inside: "What goes on inside", hidden: "Hidden units, layer by layer", memory: "Memory",
    outcomes: "Returns that it foresees for each action", voices: "What each of its {n} networks thinks",
    landscape: "Value landscape", landscape_note: "Brightness: the value of the best action, from {low} to {high}. Line: where the best action changes. White: the path of this episode.",
    across: "Across", up: "Up", training: "How it learned", curve: "Return of training episodes (line) and of greedy evaluations (dots)",
    snapshot: "Agent after {step} steps", delivered: "Delivered agent", timeline: "Time line of training", untrained: "Untrained agent", timeline_note: "Switch the agent while it plays. The weights of earlier agents are rounded to 8 bits.", about: "About this run",
    score: "Score", score_text: "{mean} [{low}, {high}], mean return of {n} unseen episodes and its 95 % interval", score_plain: "{mean}, mean return of {n} unseen episodes",
    measure: "Play 100 episodes in this page", measuring: "{n} of 100 …", measured: "{mean} [{low}, {high}], 100 episodes in this page",
    reproduce: "Reproduce", settings: "Settings that differ from the defaults", steps_trained: "Training steps", run: "Run", made: "Made with qdojo {version}",
    status: "Step {steps}, return {score}", status_ended: "Episode over after {steps} steps, return {score}", status_limit: "Time limit after {steps} steps, return {score}",
    episode: "Episode", best: "best", median: "median", worst: "worst", episode_name: "{which} of 20: return {score}", frame: "Frame",
    stage: "The environment. {status}", language: "Language", recorded: "Recorded, because {why}.",
    left: "left", right: "right", none: "nothing", position: "position", velocity: "velocity", angle: "angle", spin: "spin",
    clockwise: "right turn", counter: "left turn", angle_1: "angle of link 1", angle_2: "angle of link 2", spin_1: "spin of link 1", spin_2: "spin of link 2",
    cos_1: "cos of angle 1", sin_1: "sin of angle 1", cos_2: "cos of angle 2", sin_2: "sin of angle 2", goal: "goal: swing the tip above this line", action: "action {n}", part: "part {n}",
  },
  ko: {
    title: "{env}: 스스로 배운 에이전트", subtitle: "심층 Q-러닝({preset})으로 학습했습니다. 서버도 네트워크도 없이 이 페이지 안에서 생각합니다.",
    film_subtitle: "심층 Q-러닝({preset})으로 학습했습니다. 매 스텝의 판단과 함께 녹화한 에피소드입니다.",
    pause: "일시정지", play: "재생", step: "한 스텝", restart: "다시 시작", seed: "시드", speed: "속도", times: "{n}배",
    limit: "{n}스텝에서 끝내기", push_left: "왼쪽으로 밀기", push_right: "오른쪽으로 밀기",
    who: "누가 조종할까요?", agent: "에이전트", you: "나", hint_agent: "화살표 키나 버튼으로, 또는 그림을 끌어서 밀어 보세요. 에이전트가 대응합니다.",
    hint_you: "키나 버튼으로 행동을 고르세요. 막대는 에이전트라면 무엇을 했을지 보여 줍니다.",
    hint_take: "버튼이나 버튼에 적힌 키를 눌러 끼어들어 보세요. 누르고 있는 동안은 당신이 고른 행동을 합니다.",
    thinks: "에이전트의 판단", q: "Q-값: 기대하는 리턴", illegal: "불가능", margin: "최선이 차선보다 {n} 높음",
    margin_note: "막대 범위 {low} ~ {high}", trace: "어느 행동이 더 나은가, 최근 150스텝", trace_film: "어느 행동이 더 나은가, 에피소드 전체", trace_note: "Q-값에서 모든 행동의 평균을 뺀 값입니다.", pushed_note: "빨간 선은 밀린 순간입니다.", taken_note: "빨간 선은 당신이 한 행동입니다.",
    sees: "에이전트가 보는 것", inside: "내부에서 일어나는 일", hidden: "은닉 유닛 (층별)", memory: "기억",
    outcomes: "행동마다 예상하는 리턴의 분포", voices: "{n}개 네트워크 각각의 판단",
    landscape: "가치 지형", landscape_note: "밝기: 최선 행동의 가치 ({low} ~ {high}). 선: 최선 행동이 바뀌는 곳. 흰색: 이번 에피소드의 경로.",
    across: "가로", up: "세로", training: "학습 과정", curve: "학습 에피소드의 리턴(선)과 탐욕 평가(점)",
    snapshot: "{step}스텝을 학습한 에이전트", delivered: "최종 에이전트", timeline: "학습의 시간 축", untrained: "학습 전 에이전트", timeline_note: "재생 중에 에이전트를 바꿔 보세요. 이전 에이전트의 가중치는 8비트로 반올림했습니다.", about: "이 실행에 대하여",
    score: "점수", score_text: "{mean} [{low}, {high}], 처음 보는 에피소드 {n}개의 평균 리턴과 95 % 구간", score_plain: "{mean}, 처음 보는 에피소드 {n}개의 평균 리턴",
    measure: "이 페이지에서 100 에피소드 재 보기", measuring: "100개 중 {n}개 …", measured: "{mean} [{low}, {high}], 이 페이지의 100 에피소드",
    reproduce: "재현하기", settings: "기본값과 다른 설정", steps_trained: "학습 스텝", run: "실행", made: "qdojo {version}으로 만듦",
    status: "{steps}스텝, 리턴 {score}", status_ended: "{steps}스텝 만에 끝남, 리턴 {score}", status_limit: "제한 {steps}스텝에 도달, 리턴 {score}",
    episode: "에피소드", best: "최고", median: "중간", worst: "최저", episode_name: "20개 중 {which}: 리턴 {score}", frame: "프레임",
    stage: "환경. {status}", language: "언어", recorded: "녹화한 에피소드입니다: {why}.",
    left: "왼쪽", right: "오른쪽", none: "가만히", position: "위치", velocity: "속도", angle: "각도", spin: "각속도",
    clockwise: "오른쪽 돌림", counter: "왼쪽 돌림", angle_1: "막대 1 각도", angle_2: "막대 2 각도", spin_1: "막대 1 각속도", spin_2: "막대 2 각속도",
    cos_1: "각도 1의 cos", sin_1: "각도 1의 sin", cos_2: "각도 2의 cos", sin_2: "각도 2의 sin", goal: "목표: 끝을 이 선 위로", action: "행동 {n}", part: "성분 {n}",
  },
};

let language = (navigator.language || "en").startsWith("ko") ? "ko" : "en";

/** A text in the present language, with the parts in braces filled in. */
function t(key, parts = {}) {
  return STRINGS[language][key].replace(/\{(\w+)\}/g, (_, name) => String(parts[name]));
}

/** The name of an action or of a part of the observation: a key of STRINGS, or text as it was given. */
function named(name) {
  return Object.hasOwn(STRINGS.en, name) ? t(name) : name;
}
