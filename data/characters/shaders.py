"""GLSL of the head renderer. Colours are linear until the last line of each fragment shader."""

HEAD_VERTEX = """#version 330
uniform mat4 projection; uniform mat3 turn; uniform vec3 pivot; uniform vec3 shift;
in vec3 position; in vec3 normal; in vec3 rest; in vec3 eye; in vec4 look;
out vec3 v_normal; out vec3 v_rest; out vec3 v_eye; out vec4 v_look; flat out int v_part;
in float part;
void main() {
    vec3 p = turn * (position - pivot) + pivot - shift;
    v_normal = turn * normal; v_rest = rest; v_eye = position - eye; v_look = look; v_part = int(part + 0.5);
    gl_Position = projection * vec4(p.x, p.z, -p.y, 1.0);
}
"""

# Parts 0..6 as in head.PARTS; 7 is hair. look = (lips, lids, strand brightness, cavity).
HEAD_FRAGMENT = """#version 330
in vec3 v_normal; in vec3 v_rest; in vec3 v_eye; in vec4 v_look; flat in int v_part;
out vec4 colour;
uniform vec3 skin, hair, brow, iris, lips, light, light_colour;
uniform float ambient, beard, freckles, lid_shadow, seed;
uniform vec2 gaze;

// Cheap on a CPU: three sines folded into each other look irregular enough on skin.
float noise(vec3 p) {
    vec3 q = p + 1.7 * sin(p.yzx * 0.9 + seed);
    return 0.5 + 0.5 * sin(q.x + sin(q.y * 1.3 + 2.0 * sin(q.z)));
}
float bump(float x, float width) { return exp(-x * x / (width * width)); }

vec3 skin_colour(out float shine) {
    vec3 r = v_rest;
    vec3 c = skin * (0.9 + 0.1 * sin(r.x * 260.0 + 2.0 * sin(r.z * 190.0 + seed) + 2.0 * sin(r.y * 150.0)));
    float cheek = bump(abs(r.x) - 0.045, 0.022) * bump(r.z + 0.045, 0.022) * step(r.y, 0.04);
    c = mix(c, c * vec3(1.12, 0.82, 0.8), 0.6 * cheek + 0.4 * bump(r.x, 0.012) * bump(r.z + 0.042, 0.012));
    if (freckles > 0.0) c *= 1.0 - freckles * step(0.72, noise(r * 700.0)) * (cheek + 0.3);
    float ax = abs(r.x);
    float arch = 0.0205 + 0.006 * cos((ax - 0.036) * 45.0);
    float stroke = bump(r.z - arch, 0.0042 - 0.045 * max(ax - 0.038, 0.0)) * smoothstep(0.011, 0.018, ax)
                 * (1.0 - smoothstep(0.050, 0.058, ax)) * step(r.y, 0.03);
    c = mix(c, brow, clamp(1.15 * stroke, 0.0, 0.92));
    c = mix(c, c * vec3(0.62, 0.52, 0.5), v_look.y * lid_shadow);
    if (beard > 0.0) {
        float front = 1.0 - smoothstep(0.02, 0.06, r.y);
        float jaw = smoothstep(-0.055, -0.075, r.z) * smoothstep(-0.165, -0.13, r.z) * front;
        float shade = max(jaw, bump(r.z + 0.054, 0.006) * bump(r.x, 0.028)) * beard * (0.75 + 0.5 * noise(r * 900.0));
        c = mix(c, hair * 0.8 + 0.15 * skin, clamp(shade, 0.0, 0.9) * (1.0 - v_look.x));
    }
    c = mix(c, lips, v_look.x * 0.9);
    c = mix(c, vec3(0.012, 0.003, 0.003), v_look.w);
    shine = mix(0.10, 0.35, v_look.x) * (1.0 - v_look.w);
    return c;
}

vec3 eye_colour() {
    vec3 d = normalize(v_eye);
    vec3 g = normalize(vec3(gaze.x, -1.0, gaze.y));
    float a = dot(d, g);
    vec3 c = mix(vec3(0.80, 0.78, 0.75), vec3(0.62, 0.42, 0.38), 0.5 * smoothstep(0.72, 0.3, dot(d, vec3(0, -1, 0))));
    float ring = smoothstep(0.865, 0.885, a);
    c = mix(c, iris * (0.55 + 0.9 * smoothstep(0.89, 0.96, a)), ring);
    return mix(c, vec3(0.006), smoothstep(0.962, 0.972, a));
}

void main() {
    vec3 n = normalize(v_normal); if (!gl_FrontFacing) n = -n;
    n = vec3(n.x, n.z, -n.y);
    float shine = 0.12, gloss = 18.0, dim = 1.0; vec3 c;
    if (v_part == 0) c = skin_colour(shine);
    else if (v_part <= 2) { c = eye_colour(); shine = 0.8; gloss = 90.0; dim = 0.95; }
    else if (v_part <= 4) { c = vec3(0.72, 0.68, 0.60); dim = 0.75; shine = 0.2; }
    else if (v_part == 5) { c = vec3(0.30, 0.06, 0.06); dim = 0.4; shine = 0.05; }
    else if (v_part == 6) { c = vec3(0.008); shine = 0.0; }
    else { c = hair * v_look.z; shine = 0.16; gloss = 14.0; }
    vec3 l = normalize(light);
    float key = max(dot(n, l), 0.0) * 0.8 + max(dot(n, l) * 0.5 + 0.5, 0.0) * 0.15;
    float fill = max(dot(n, normalize(vec3(-l.x, 0.3, 0.7))), 0.0) * 0.22;
    vec3 h = normalize(l + vec3(0, 0, 1));
    float spark = pow(max(dot(n, h), 0.0), gloss) * shine;
    vec3 lit = c * dim * (light_colour * (key + fill) + ambient * (0.75 + 0.25 * n.y)) + spark * light_colour;
    colour = vec4(pow(clamp(lit, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
}
"""

BACKGROUND_VERTEX = """#version 330
in vec2 corner; out vec2 uv;
void main() { uv = corner * 0.5 + 0.5; gl_Position = vec4(corner, 0.999, 1.0); }
"""

BACKGROUND_FRAGMENT = """#version 330
in vec2 uv; out vec4 colour; uniform sampler2D picture;
void main() { colour = texture(picture, uv); }
"""
