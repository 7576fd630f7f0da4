"""GLSL of the studio. Space of the camera: right, up, towards the viewer, metres; colours linear.

First every pixel's place, normal and colour are written down, then each light is added with its shadow map
(`LIGHT_FRAGMENT`). Sources: GGX of Walter et al. 2007; hair after Kajiya and Kay 1989 with the shifted highlights
of Marschner et al. 2003; value noise by an integer hash, the same on every machine.
"""

SKIN, EYES, CLOTH, HAIR = 1, 2, 3, 4  # materials; 0 is the background

_NOISE = """
float hash(ivec3 p) {
    uint h = uint(p.x) * 374761393u + uint(p.y) * 668265263u + uint(p.z) * 2246822519u;
    h = (h ^ (h >> 13)) * 1274126177u;
    return float((h ^ (h >> 16)) & 65535u) / 65535.0;
}
float noise(vec3 p) {  // in [-1, 1], features of size 1
    vec3 f = fract(p); ivec3 i = ivec3(floor(p));
    f = f * f * (3.0 - 2.0 * f);
    vec4 front, back;
    front = vec4(hash(i), hash(i + ivec3(1, 0, 0)), hash(i + ivec3(0, 1, 0)), hash(i + ivec3(1, 1, 0)));
    back = vec4(hash(i + ivec3(0, 0, 1)), hash(i + ivec3(1, 0, 1)), hash(i + ivec3(0, 1, 1)), hash(i + ivec3(1, 1, 1)));
    vec4 z = mix(front, back, f.z); vec2 y = mix(z.xy, z.zw, f.y);
    return 2.0 * mix(y.x, y.y, f.x) - 1.0;
}
float bump(float x, float width) { x /= width; return exp(-x * x); }
"""

_TARGETS = """
layout(location = 0) out vec4 o_place; layout(location = 1) out vec4 o_normal; layout(location = 2) out vec4 o_colour;
"""

SURFACE_VERTEX = """#version 330
uniform mat4 projection;
in vec3 position; in vec3 normal; in vec3 rest; in vec4 mask; in vec2 extra;
out vec3 v_place; out vec3 v_normal; out vec3 v_rest; out vec4 v_mask; out vec2 v_extra;
void main() {
    v_place = position; v_normal = normal; v_rest = rest; v_mask = mask; v_extra = extra;
    gl_Position = projection * vec4(position, 1.0);
}
"""

_TURNED = """
vec3 turned(vec3 n, vec3 slope, float scale) {  // a normal bent by the slope of a height; both in the same space
    return normalize(n - scale * (slope - dot(slope, n) * n));
}
"""

SKIN_FRAGMENT = f"""#version 330
{_TARGETS}{_NOISE}{_TURNED}
uniform vec3 skin, lips, hair; uniform float freckles;
in vec3 v_place; in vec3 v_normal; in vec3 v_rest; in vec4 v_mask; in vec2 v_extra;
float pores(vec3 p) {{ return 0.6 * noise(p * 1100.0) + 0.8 * noise(p * 520.0) + 0.4 * noise(p * 170.0); }}
float folds(vec3 p) {{ return noise(vec3(p.x * 700.0 + 1.2 * noise(p * 300.0), p.y * 120.0, p.z * 120.0)); }}
float height(vec3 p, float lip) {{ return mix(0.00003 * pores(p), 0.00009 * folds(p), lip); }}
void main() {{
    vec3 p = v_rest; float x = abs(p.x), z = p.z, d = 0.0003;  // z is up, y backwards
    float lip = smoothstep(0.25, 0.7, v_mask.x), front = smoothstep(0.05, 0.0, p.y);
    float h = height(p, lip);
    vec3 slope = vec3(height(p + vec3(d, 0, 0), lip) - h, height(p + vec3(0, 0, d), lip) - h,
                      h - height(p + vec3(0, d, 0), lip)) / d;
    vec3 n = turned(normalize(gl_FrontFacing ? v_normal : -v_normal), slope, 1.0);
    vec3 c = skin * (1.0 + 0.05 * noise(p * 90.0) + 0.05 * noise(p * 260.0) + 0.03 * noise(p * 900.0));
    float cheek = front * bump(x - 0.042, 0.024) * bump(z + 0.042, 0.022);
    float nose = front * bump(x, 0.016) * bump(z + 0.042, 0.014), chin = front * bump(x, 0.02) * bump(z + 0.105, 0.015);
    float ear = smoothstep(0.068, 0.078, x) * bump(z + 0.005, 0.04);
    c *= mix(vec3(1), vec3(1.10, 0.80, 0.78), clamp(0.65 * cheek + 0.45 * nose + 0.25 * chin + 0.5 * ear, 0.0, 1.0));
    c *= mix(vec3(1), vec3(0.82, 0.72, 0.74), clamp(v_mask.y, 0.0, 1.0) * 0.55);
    c *= mix(vec3(1), vec3(0.90, 0.84, 0.86), 0.7 * front * bump(x - 0.028, 0.016) * bump(z + 0.016, 0.007));
    float spot = smoothstep(0.30, 0.62, 0.6 * noise(p * 430.0 + 7.0) + 0.4 * noise(p.yzx * 910.0 + 3.0));
    spot *= cheek + nose + 0.3 * front;
    c *= mix(vec3(1), vec3(0.62, 0.46, 0.38), clamp(freckles * spot, 0.0, 1.0));
    c = mix(c, lips * (1.0 + 0.10 * noise(p * 400.0)), 0.85 * lip);
    c = mix(c, hair * 0.8, 0.9 * v_mask.w);
    c = mix(c, hair + 0.25 * skin, v_extra.x * (0.6 + 0.25 * noise(p * 800.0)));
    c = mix(c, vec3(0.05, 0.012, 0.01), smoothstep(0.2, 0.9, v_mask.z));
    float rough = mix(0.52 - 0.08 * nose + 0.04 * noise(p * 300.0), 0.34, lip);
    o_place = vec4(v_place, 1.0); o_normal = vec4(n, rough);
    o_colour = vec4(c, (1.0 - 0.8 * v_mask.w) * (1.0 - v_mask.z) * mix(0.54, 1.0, lip));
}}
"""

CLOTH_FRAGMENT = f"""#version 330
{_TARGETS}{_NOISE}{_TURNED}
uniform vec3 cloth; uniform float knit;  // rows of loops a metre; 0: smooth fabric
in vec3 v_place; in vec3 v_normal; in vec3 v_rest; in vec4 v_mask; in vec2 v_extra;
float height(vec3 p, float rib) {{
    float folds = 0.0016 * noise(p * vec3(38.0, 38.0, 24.0)) + 0.0008 * noise(p * 85.0 + 3.0);
    vec2 q = vec2(atan(p.x, 0.12 - p.y) * 0.16, p.z + 0.4 * length(p.xy - vec2(0, 0.1))) * knit;
    float loops = sin(q.x * 3.1416) * 0.5 + sin(q.y * 6.28 + 1.6 * abs(sin(q.x * 3.1416))) * 0.5;
    float weave = knit > 0.0 ? 0.00028 * loops : 0.00004 * (noise(p * 1500.0) + noise(p * 700.0));
    return mix(folds + weave, 0.0006 * sin(atan(p.x, 0.085 - p.y) * 190.0), rib);
}}
void main() {{
    if (v_extra.y < 0.0) discard;
    vec3 p = v_rest; float d = 0.0002, rib = smoothstep(0.0165, 0.0155, v_extra.y);
    float h = height(p, rib);
    vec3 slope = vec3(height(p + vec3(d, 0, 0), rib) - h, height(p + vec3(0, 0, d), rib) - h,
                      h - height(p + vec3(0, d, 0), rib)) / d;
    float seam = bump(v_extra.y - 0.016, 0.0009);
    vec3 c = cloth * (1.0 + 0.06 * noise(p * 1300.0) + 0.05 * noise(p * 30.0)) * (1.0 - 0.35 * seam);
    vec3 n = turned(normalize(gl_FrontFacing ? v_normal : -v_normal), slope, 1.0);
    o_place = vec4(v_place, 3.0); o_normal = vec4(n, 0.85); o_colour = vec4(c, 0.35);
}}
"""

EYE_FRAGMENT = f"""#version 330
{_TARGETS}{_NOISE}
uniform vec3 iris;
in vec3 v_place; in vec3 v_normal; in vec3 v_rest; in vec4 v_mask; in vec2 v_extra;  // rest: from the eye's middle
void main() {{
    vec3 d = normalize(vec3(v_rest.x, v_rest.z, -v_rest.y));
    float r = acos(clamp(d.z, -1.0, 1.0)) / 0.49, turn = atan(d.y, d.x);  // 1 at the edge of the iris
    vec3 white = vec3(0.80, 0.77, 0.74) * (1.0 - 0.03 * noise(d * 9.0));
    float vein = smoothstep(0.78, 0.98, 1.0 - abs(noise(d * vec3(11, 26, 11)))) * smoothstep(1.1, 2.3, r);
    white = mix(white, vec3(0.72, 0.50, 0.46), 0.25 * vein + 0.30 * smoothstep(1.3, 2.6, r));
    vec2 rim = vec2(cos(turn), sin(turn));
    float fibre = noise(vec3(9.0 * rim, r * 2.2)) + 0.7 * noise(vec3(26.0 * rim, r * 3.0));
    vec3 c = iris * (0.95 + 0.40 * fibre) * (0.75 + 0.55 * smoothstep(0.25, 0.6, r));
    c = mix(c, iris * vec3(1.5, 1.1, 0.6), 0.35 * bump(r - 0.45, 0.14));
    c *= 1.0 - 0.75 * smoothstep(0.80, 1.0, r);  // limbal ring
    c *= 1.0 + 0.8 * smoothstep(0.1, 0.9, -d.y / max(length(d.xy), 0.01)) * smoothstep(0.35, 0.8, r);  // light gathers
    c = mix(c, vec3(0.004), smoothstep(0.40, 0.365, r));
    c = mix(c, white, smoothstep(0.94, 1.07, r));
    vec3 cornea = normalize(d + 0.55 * vec3(d.xy, 0.0) * (1.0 - smoothstep(0.8, 1.25, r)));
    o_place = vec4(v_place, 2.0); o_normal = vec4(cornea, 0.13); o_colour = vec4(c, 1.2);
}}
"""

STRAND_VERTEX = """#version 330
uniform mat4 projection; uniform vec3 viewer; uniform float far;  // far 1: a light at infinity in direction `viewer`
in vec3 position; in vec3 along; in vec4 look; in float side;
out vec3 v_place; out vec3 v_along; out vec3 v_colour;
void main() {
    vec3 towards = mix(viewer - position, viewer, far);
    v_place = position + normalize(cross(along, towards)) * side * look.w;
    v_along = along; v_colour = look.rgb;
    gl_Position = projection * vec4(v_place, 1.0);
}
"""

STRAND_FRAGMENT = f"""#version 330
{_TARGETS}
in vec3 v_place; in vec3 v_along; in vec3 v_colour;
void main() {{
    o_place = vec4(v_place, 4.0); o_normal = vec4(normalize(v_along), 0.3); o_colour = vec4(v_colour, 1.0);
}}
"""

SHADOW_FRAGMENT = "#version 330\nvoid main() {}\n"

CLOTH_SHADOW_FRAGMENT = """#version 330
in vec2 v_extra;
void main() { if (v_extra.y < 0.0) discard; }
"""

LIGHT_VERTEX = """#version 330
in vec2 corner; void main() { gl_Position = vec4(corner, 0.0, 1.0); }
"""

# Adds one light: what skin scatters (`o_soft`) and what is mirrored (`o_gloss`).
LIGHT_FRAGMENT = """#version 330
layout(location = 0) out vec4 o_soft; layout(location = 1) out vec4 o_gloss;
uniform sampler2D places, normals, colours, shadow; uniform mat4 to_shadow; uniform float depth_metres;
uniform vec3 light, radiance, viewer;
float behind(vec3 place) {  // metres that the nearest surface lies before a place, seen from the light
    vec3 q = (to_shadow * vec4(place, 1.0)).xyz * 0.5 + 0.5;
    return (q.z - texture(shadow, q.xy).r) * depth_metres;
}
float ggx(vec3 n, vec3 v, float rough) {
    vec3 h = normalize(light + v); float nl = max(dot(n, light), 0.0), nv = max(dot(n, v), 0.05), nh = dot(n, h);
    float a = rough * rough, t = nh * nh * (a * a - 1.0) + 1.0, k = a / 2.0;
    float f = 0.032 + 0.968 * pow(1.0 - max(dot(h, v), 0.0), 5.0);
    return nl * f * a * a / (3.14159 * t * t) / (4.0 * (nl * (1.0 - k) + k) * (nv * (1.0 - k) + k));
}
void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    vec4 place = texelFetch(places, at, 0); if (place.w == 0.0) discard;
    vec4 normal = texelFetch(normals, at, 0), colour = texelFetch(colours, at, 0);
    vec3 n = normal.xyz, v = normalize(viewer - place.xyz);
    float soft, gloss; vec3 tint = vec3(1.0);
    if (place.w > 3.5) {
        float lit = exp(-max(behind(place.xyz) - 0.0008, 0.0) / 0.0045);
        float tl = dot(n, light), tv = dot(n, v), up = sqrt(max(1.0 - tl * tl, 0.0)), middle = 0.5 * (tl + tv);
        float first = exp(-pow((middle + 0.06) / 0.10, 2.0)), second = exp(-pow((middle - 0.10) / 0.19, 2.0));
        float through = pow(max(dot(-light, v), 0.0), 3.0) * exp(-pow(middle / 0.3, 2.0));
        soft = lit * (0.24 * up + 0.55 * second * up + 0.9 * through);
        gloss = lit * (0.011 + 0.35 * colour.g) * first * up;
    } else {
        float lit = 1.0 - smoothstep(0.0006, 0.0022, behind(place.xyz + 0.0012 * n));
        float nl = max(dot(n, light), 0.0), rim = pow(1.0 - max(dot(n, v), 0.0), 4.0);
        soft = lit * nl / 3.14159;
        gloss = lit * colour.a * (place.w < 1.5 ? 0.75 * ggx(n, v, normal.a) + 0.35 * ggx(n, v, 0.6 * normal.a)
                                                : ggx(n, v, normal.a));
        gloss += lit * (place.w > 2.5 ? 0.08 : 0.02) * rim * max(0.3 + 0.7 * dot(n, light), 0.0);
    }
    o_soft = vec4(radiance * soft, 1.0); o_gloss = vec4(radiance * gloss, 1.0);
}
"""
