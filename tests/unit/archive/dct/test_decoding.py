"""Decoding coefficients: the pixels of libjpeg-turbo, which Pillow has, and of libjpeg 9, by digests of what it made."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data

from callic_archive.archive.dct.decoding import (
    GRAY,
    INTERPOLATED,
    REPEATED,
    TRANSFORMED,
    YCC,
    YCC_9,
    Layout,
    pixels_of,
)
from callic_archive.archive.dct.decoding_kernel import MATRIX, MATRIX_16
from tests.jpegs import coefficients

SAMPLINGS = {0: (1, 1), 1: (1, 2), 2: (2, 2)}  # Pillow's numbers: rows and columns of pixels to a chroma sample
#: JPEG files of 37 x 51 pixels of the astronaut, and SHA-256 of their pixels as libjpeg 9d makes them.
LIBJPEG_9 = [
    (
        2,
        '|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ&KWMT47pHU`kO^'
        'PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf!2A01*fPB>*!60U`hb5di}c'
        '0sq7R82|tR0|5X40000000000000040s{pB|HJ?>5C8%J0|EmC2nPTF00000009C600a>dAu&Nw1rs8nGD1>ufsw)C6cu4&g0a#6!~hrp0RaI4'
        '0RR910000000000009C71OLPT7!d&h0RaI30000000000000015g|eU+5ij#0RRFK0}%i}0907ZX^+A_sGD?L`abTWnoFanOqR?XdccA8sKIn1'
        'QZ%fP@c{b1>agD1>&S^qbt8>&S3!tmP}<wQLDx=4&YfF`nk<W_W#Qolm4)J!0d@W=e$*Ri+!9We{Z}7agO@QIk)}6tr<>9<_C3A{RbbrPfz4Yl'
        'W)^L6+(_LQ7#>y5=t2NyQhF1b1b;7e+q_-9rUcPiA>jiCDE@R%V5G8Hx~qa$6zWWKm}I~_m}a|hi7>$&uqw5Q8A7nZ<VPAV8%CREW{rpKKYUh%'
        'XDS0lgVb&2Hmuu1sM~J9?lZCY8huFAUK~W;vT+Cepq!dC_|=K(2tIW<B7$rOR!~kek@7t%v2z<XCr}9($md)xkrIG$^Atm8vF);S+?dC*PU4D0'
        'U)(4PvtSM!5BEiB8P?}gfZOlJt9+!IbC5|J@}i2*k5uB53^gciM;Yl-mDrU5h$Ed8Q+SlT*D@&!vG>*D;iR^PMjkImKME+MN~PGy+VBRg@ro#-'
        'n#2Fu',
        "78addf0c635b97e4",
    ),
    (
        1,
        '|JeWF01!$>Nk#wx0RR9200961|JwjV00;&K2L=TQ2L}fU2?z=d6b%du3k(?&6Au&}8Xq1V8XO!TBrYc)A}k{u94I#_EHE)NG&CP4IXyTsJT5ad'
        'GXL8ELjeg12@DGi7!3^=G9erxGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBW?b01*fPB>*!60U-ba5di}c'
        '0sq7R8UO$T0RRI40000000000000971pom82LHqWE)W0$0RsX92Lu8G00000000330{{dO5+MaKQ4=CTVR4b61{4*6Gg6Y#@c+aB836zT0RaI3'
        '0000000000000010s{mE|HJ?q5di@K0RRI400000000000003IArdh`|Jncy0|5X65d#qbKLDOMMaK=(`1w0aXF8*dw(1Xn>ODDPs71sGj3m}h'
        'vMIrE%DEm#BD|~bU8*+IqQ7YW0C5_TklHf8<ONkr+jqANxAMs!F5o2m(khvKZr8&^GD=Y6y(as6)T_Ux?1Gj=aQWTwrL#_43Eza3JH4`P{oE5;'
        'mO<0@oJ3n8P^mSk?*$`d&rX!Xaa%sn6}OF?i~_@-?0>qTqirk~F{za{{)lm(ai5yt*g+^_%u#w6$lvx&AV%Zq^6q4Y_GjB<z*YFJpKi9Q6{JFQ'
        'xF<RC=SoA-gtn>xHt^@v)}Uj?$8kRkk~EcArU>WZnyVGl6RO^FpzK48f&Tz`Q7^-=>~C@kyF3mC*^P#Mvx>C|41hcY9|jo*+#Gw*O+REKJ)%1t'
        '<0`=Wkwvt&w7M!JS4AfpiwtL>=}e6`()J;ai{^!M{A_nx)mWXc8G960U@05p0MHWNH;q-smK>Qz;M7^Ik8t)#p96LT<x6Exs5N0q>oVJ72juZ{'
        'Q|3BTiLT=Q7n2uJsA4gw91=cjgDh6%qE!SRk>}<psleBa-bSGo=L$9hx_15VTB|7`*^?w{8w7$k#R6Q#Hl137F&p?)ZyVr{Po>vd2i9?u%wwe%'
        ';#mtI4nq!2<3{l|5xL?MAqlg3_0KwRUp)2}vpS7n=+1nol&mQvjXU<ZRn`H<GvQjR$(#S#',
        "f0a54069cd4d0ade",
    ),
    (
        0,
        '|JeWF01!$>Nk#wx0RR9200961|JwjV00jdC1Ox*G1Ox;H1qB8N3<w7Y2L}%e3keJn4-yg)4-pX)791B76dDx~5f~vD8XX-UA0HDJA|xUnBpe<e'
        '9{<|_LjeT^1qTKP4hRSi9uyH29v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v&VZ9v=U|01*fPB>*!60TBQK5di}c'
        '0sq7R8UO(R0|5a60000000000000F81O@;H0{_GSFc1I&0RjXA2Lu5H00000000330|XHO1ri|>F+m0*QDJd`krbi9@KO~PGJ>)H!~hxr0RaI4'
        '0RaI300000000000ssL61O*2F!~h);0RaF50RaI40RR91000000RRFKArdh`QDOhu01N{G00I#M5dc2`89O;&l5qb3q0h#lkn4gH`^E{qm&JW9'
        'MXhUN^LegaZ>~C-rOsSJA*;#dN#i6L7DPft`VvRnW02~(H<r~xlX2!1)aXUToE=HatAG#R3%|AY(7~EfOGG40?xuKeq;Qpq`6Ce&><)QJCTylE'
        'N$OrUu`fR2-k0AP_w0^Y+}E&qNJf$vrde(^OKlIU%ER}^49xi-FrV7>5rBfK8v(ZxRW0stb&YmsDb7}kHbER!S#dhTFxnz+MxJ)^=eF2Ri+<N6'
        '?FLk543scDgjh6-V0{SN?}<v(-d#~eTLf)U4S*X*8-NeUzrn@{Npod1bqgaqn4`F`Fcq;qZb|&&`(!<TW7<hgMJ{bwEr)h3AtSf?kG+Nij@cO{'
        '5u=WQ7C9$`u{SEr7@sb8zdo2iYTd1AC(D&Wni@NfedCPXn!LW6uCpPY7-~`49V8MBtS|onF_`3znWdtouaK~khOovMSgfn43;6Z-9Pqclk<_g`'
        'xqvatB(!rV+VHr!_S6>zU)y<VX$X=vSt!c2wvlcK^k8)S;eU~Ct@?2Z`iNzAy|p8$+su#7E}g2zRYjH86iSHZi5ax<3$3sG8rQM)+s_(yDv~mG'
        '3nmW2EaFN;xwJ0Zr<W{r@<ZEsW^+$Xm?({u-%gZ0d2RdYj%Z|Fq}5UiC?tg=m2^lpS3%wf@-Tc9OZI)@r<4WnNUTdCa#6gBus=NUW7`tb#L32L'
        'iVYM}-qO?m0F-QeNAW&<u*g!TZ%HiLa~NY+Wz(%m1&4=FeTc$Aj=z_~)KgKkl(C>8hahZOeD>x#9}EF3cS9d(vshzTqs$7Tizu=+hfUjmoOJV-'
        '<azwESwS;GizS$b8<Ec(aCv)>-BPPvJyDE4wRdG2hcDY=RI$fY^fhHAUMy=VnTp(!3X#+tMtzHoJ$*#%@v6$m<CBhfS!9fL6`1E0Q80+<dyTF('
        '2K?>gj%(gq<dRI%TD+cuu0$MAcv`Q$ikly7bl(Q&mO4^8qGzg<)Y%Zo0}-b7Hp2FtxjeuB*#',
        "0c720597b441d526",
    ),
]


def jpeg(image: np.ndarray, quality: int, sampling: int) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "jpeg", quality=quality, subsampling=sampling)
    return file.getvalue()


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(file)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("quality", [5, 50, 75, 90, 100])
@pytest.mark.parametrize("size", [(96, 128), (37, 51), (8, 8), (41, 16), (17, 200)])
def test_pixels_are_those_of_libjpeg_turbo(sampling: int, quality: int, size: tuple[int, int]) -> None:
    file = jpeg(data.astronaut()[: size[0], 100 : 100 + size[1]], quality, sampling)
    planes, tables = coefficients(file)
    down, across = SAMPLINGS[sampling]
    layout = Layout(*size, YCC, down, across, INTERPOLATED)
    planes = [plane[: layout.blocks(n)[0], : layout.blocks(n)[1]] for n, plane in enumerate(planes)]
    np.testing.assert_array_equal(pixels_of(planes, tables, layout), pixels(file))


def test_gray_pixels_are_those_of_libjpeg_turbo() -> None:
    file = jpeg(data.camera()[:100, :141], 80, 0)
    planes, tables = coefficients(file)
    np.testing.assert_array_equal(pixels_of(planes, tables, Layout(100, 141, GRAY)), pixels(file))


@pytest.mark.parametrize(("sampling", "coded", "digest"), LIBJPEG_9)
def test_pixels_are_those_of_libjpeg_9(sampling: int, coded: str, digest: str) -> None:
    planes, tables = coefficients(base64.b85decode(coded))
    down, across = SAMPLINGS[sampling]
    layout = Layout(37, 51, YCC_9, down, across, TRANSFORMED)
    planes = [plane[: layout.blocks(n)[0], : layout.blocks(n)[1]] for n, plane in enumerate(planes)]
    assert hashlib.sha256(pixels_of(planes, tables, layout).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("chroma", [REPEATED, TRANSFORMED])
def test_a_part_is_cut_out_of_the_whole(chroma: int) -> None:
    """What lies above and to the left of the image changes nothing, but where chroma is interpolated at edges."""
    planes, tables = coefficients(jpeg(data.astronaut()[:96, :96], 70, 2))
    whole = pixels_of(planes, tables, Layout(96, 96, YCC, 2, 2, chroma))
    part = Layout(70, 60, YCC, 2, 2, chroma, top=5, left=11)
    planes = [plane[: part.blocks(n)[0], (n == 0) : part.blocks(n)[1] + (n == 0)] for n, plane in enumerate(planes)]
    np.testing.assert_array_equal(pixels_of(planes, tables, part), whole[5:75, 11:71])
    other = replace(part, top=4)
    assert not np.array_equal(pixels_of(planes, tables, other), whole[5:75, 11:71])


@pytest.mark.parametrize(("matrix", "samples"), [(MATRIX, 8), (MATRIX_16, 16)])
def test_matrices_are_cosines_to_a_unit_or_two(matrix: np.ndarray, samples: int) -> None:
    k, n = np.mgrid[:8, :samples]
    scale = np.where(k == 0, 1, np.sqrt(2))
    assert np.abs(matrix - 8192 * scale * np.cos((2 * n + 1) * k * np.pi / (2 * samples))).max() < 1.5
